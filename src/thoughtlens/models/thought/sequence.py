"""Thoughts along the sequence: question, begin, thoughts, end, answer, in one growing cache.

CODI and Coconut share this loop and differ in what they feed back. Mask and position ids go
through every pass, so that a left-padded batch thinks what each problem thinks alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from thoughtlens.core import CheckpointError, DataError, HookError
from thoughtlens.models.hf.capture import attention_of, parts_of
from thoughtlens.models.hf.load import context_length
from thoughtlens.models.hf.output import OutputSide
from thoughtlens.models.thought.places import INNER, SITES
from thoughtlens.models.thought.sites import Outside, Watch
from thoughtlens.models.thought.thoughts import Answer, State, Tap, ThoughtModel, Written, parse_number

Through = Callable[..., Any]
"""What every block's output goes through: a tap, or several side by side."""


class SequenceThoughts(ThoughtModel):
    """A causal decoder whose thoughts are positions of the sequence.

    A family gives the token ids around the thoughts and a handful of small methods.
    """

    start_ids: tuple[int, ...]
    """Tokens between question and thoughts; thought 0 is the last of them, or of the question without any."""
    end_ids: tuple[int, ...]
    """Tokens between thoughts and answer."""
    eos_id: int
    mode_ids: Mapping[str, tuple[int, ...]] = {}
    """Of each further mode the tokens between the question and what is then written, greedily."""
    banned_ids: tuple[int, ...] = ()
    """Tokens that are never generated."""
    context_length: int
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def _tokenize(self, question: str) -> list[int]:
        """Token ids of one question, without `start_ids`."""

    @abstractmethod
    def _to_text(self, ids: list[int]) -> str:
        """Text of generated ids."""

    @abstractmethod
    def _embed(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new d"]:
        """Inputs of the first block (before position embeddings, if the model adds any)."""

    @abstractmethod
    def _new_cache(self) -> Any:
        """An empty cache."""

    @abstractmethod
    def _forward(
        self,
        x: Float[Tensor, "batch new d"],
        cache: Any,
        mask: Bool[Tensor, "batch seq"],
        position_ids: Int[Tensor, "batch new"],
        tap: Through | None,
    ) -> Float[Tensor, "batch new d"]:
        """Extend the cache by x; every block's output goes through `tap`; returns `thought_out`'s
        states. `mask` covers cache and x."""

    @abstractmethod
    def _feed_back(self, u: Float[Tensor, "batch 1 d"]) -> Float[Tensor, "batch 1 d"]:
        """The next thought's input, made of this one's output."""

    @abstractmethod
    def _unembed(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        """Logits of a state that `_forward` returned."""

    def _value(self, text: str) -> float | None:
        return parse_number(text)

    def encode(self, questions: Sequence[str], outside: Outside | None = None) -> State:
        """See `ThoughtModel.encode`. Pads on the left; the padding is masked ever after."""
        if not questions:
            raise DataError("Expected at least one question, got none")
        return self._begun([self._prompt(i, question) for i, question in enumerate(questions)], outside)

    def _begun(self, ids: Sequence[Sequence[int]], outside: Outside | None = None) -> State:
        """All tokens of each row but the last are read; the last is what comes in next."""
        longest = max(len(row) for row in ids)
        tokens = torch.zeros(len(ids), longest, dtype=torch.long)
        real = torch.zeros(len(ids), longest, dtype=torch.bool)
        for i, row in enumerate(ids):
            tokens[i, longest - len(row) :] = torch.tensor(row)
            real[i, longest - len(row) :] = True
        tokens, real, batch = tokens.to(self.device), real.to(self.device), torch.arange(len(ids))
        empty = State(
            cache=self._new_cache(),
            mask=real[:, :0],
            positions=torch.zeros_like(batch).to(self.device),
            pending=self._embed(tokens[:, -1:]),
            next_thought=0,
            rows=batch,
        )
        if longest == 1:
            return empty
        return self._seen(empty, self._embed(tokens[:, :-1]), real[:, :-1], outside, 1 - longest)[1]

    @property
    def modes(self) -> tuple[str, ...]:
        """See `ThoughtModel.modes`."""
        return tuple(self.mode_ids)

    def _write(self, mode: str, questions: Sequence[str], max_new_tokens: int) -> Written:
        begin = self.mode_ids[mode]
        state = self._begun([self._prompt(i, question, begin) for i, question in enumerate(questions)])
        h, state = self._extend(state, state.pending)
        room = self.context_length - int(state.positions.max())
        rows = self._generate(state, self._unembed(h[:, -1]), min(max_new_tokens, room))
        end = self.end_ids[0]
        text = [self._to_text(row[row.index(end) + 1 :] if end in row else row) for row in rows]
        return Written(text, [self._value(one) for one in text])

    def _prompt(self, i: int, question: str, begin: tuple[int, ...] | None = None) -> list[int]:
        ids = self._tokenize(question)
        if not ids:
            raise DataError(f"Expected a question with words, got an empty one (number {i} of the batch)")
        ids = [*ids, *(self.start_ids if begin is None else begin)]
        needed = len(ids) + self.spec.n_thoughts + len(self.end_ids)
        if needed > self.context_length:
            raise DataError(
                f"Question {question[:40]!r}... has {len(ids)} tokens; with its thoughts it needs {needed} "
                f"positions, and this model has {self.context_length}: shorten it or leave it out"
            )
        return ids

    def read_ids(self, question: str) -> list[int]:
        """See `ThoughtModel.read_ids`."""
        return self._prompt(0, question)[:-1]

    def _extend(
        self, state: State, x: Tensor, real: Tensor | None = None, tap: Through | None = None
    ) -> tuple[Tensor, State]:
        """Run x after what the state holds; changes the state's cache."""
        if real is None:
            real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        mask = torch.cat([state.mask, real], 1)
        position_ids = (state.positions[:, None] + real.cumsum(1) - 1).clamp_min(0)
        h = self._forward(x, state.cache, mask, position_ids, tap)
        return h, replace(state, mask=mask, positions=state.positions + real.sum(1))

    def _seen(
        self, state: State, x: Tensor, real: Tensor, outside: Outside | None, first: int
    ) -> tuple[Tensor, State]:
        """The same of tokens of the question or of the answer's cue, position `first` and on; x may go on."""
        if outside is None:
            return self._extend(state, x, real)
        through = outside.over(first, real if first < 0 else real[:, : len(self.end_ids)])
        h, state = self._extend(state, through("thought_in", x), real, through)
        return through("thought_out", h), state

    def _step(self, state: State, tap: Tap) -> State:
        x = tap("thought_in", state.pending)
        real = None if state.thinking is None else state.thinking[:, None]
        h, state = self._extend(state, x, real, tap)
        return self._fed(state, tap("thought_out", h))

    def _fed(self, state: State, u: Float[Tensor, "batch 1 d"]) -> State:
        """The state before the next thought; whoever may stop decides here whether it does."""
        return replace(state, pending=self._feed_back(u))

    def answer(
        self, state: State, max_new_tokens: int = 256, teacher_ids: Int[Tensor, "*batch tokens"] | None = None
    ) -> Answer:
        """See `ThoughtModel.answer`. Greedy, to end-of-sequence, the cap, or the context's end."""
        state = self.clone(state)
        n = len(state.positions)
        cue = torch.tensor(self.end_ids).expand(n, -1)
        if teacher_ids is not None:
            cue = torch.cat([cue, teacher_ids.cpu().expand(n, -1)], 1)
        room = self.context_length - int(state.positions.max()) - cue.shape[1]
        if room < 0:
            raise DataError(f"The forced answer of {cue.shape[1]} tokens ends {-room} past the context")
        x = self._embed(cue.to(self.device))
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        h, state = self._seen(state, x, real, state.outside, self.spec.n_thoughts + 1)
        logits = self._unembed(h[:, len(self.end_ids) - 1 :])
        ids = self._generate(state, logits[:, -1], min(max_new_tokens, room))
        text = [self._to_text(row) for row in ids]
        return Answer(text=text, ids=ids, logits=logits, value=[self._value(t) for t in text])

    def _generate(self, state: State, logits: Tensor, n_tokens: int) -> list[list[int]]:
        tokens: list[Tensor] = []
        alive = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        while len(tokens) < n_tokens:
            logits = logits.clone()
            logits[:, list(self.banned_ids)] = -torch.inf
            token = logits.argmax(-1)
            tokens.append(token)
            alive &= token != self.eos_id
            if not alive.any() or len(tokens) == n_tokens:
                break
            h, state = self._extend(state, self._embed(token[:, None]))
            logits = self._unembed(h[:, -1])
        rows = torch.stack(tokens, 1).tolist() if tokens else [[] for _ in range(len(logits))]
        return [row[: row.index(self.eos_id)] if self.eos_id in row else row for row in rows]


class HFThoughts(SequenceThoughts):
    """Sequence thoughts on a Hugging Face causal language model."""

    def __init__(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.lm = lm.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        try:
            self.output = OutputSide(lm)
        except HookError as error:
            raise CheckpointError(f"It cannot think in vectors: {error}") from None
        self.decoder, self.blocks = self.output.decoder, self.output.blocks
        self.device = next(lm.parameters()).device
        config = lm.config.get_text_config()
        self.d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        whole = all(part is not None for block in self.blocks for part in parts_of(block))
        self.sites = (*SITES, *INNER) if whole else SITES
        self.context_length = context_length(lm.config)
        if not isinstance(tokenizer.eos_token_id, int):
            raise CheckpointError("Expected a tokenizer with an end-of-sequence token, this one has none")
        self.eos_id = tokenizer.eos_token_id

    def module_path(self, site: str, layer: int | None) -> str:
        """See `ThoughtModel.module_path`."""
        if layer is None:
            return site
        return next(name for name, module in self.lm.named_modules() if module is self.blocks[layer])

    @contextmanager
    def attending(self, watch: Watch) -> Iterator[None]:
        """See `ThoughtModel.attending`. Fused kernels keep no weights: they are off meanwhile."""
        parts = [part for block in self.blocks if (part := attention_of(block)) is not None]
        before = str(self.lm.config._attn_implementation)
        self.lm.set_attn_implementation("eager")
        if len(parts) < len(self.blocks) or self.lm.config._attn_implementation != "eager":
            raise HookError(
                f"{self.name}: the attention of {type(self.lm).__name__} cannot be seen: it has blocks "
                f"without one, or no form of it that keeps its weights"
            )
        handles = [
            handle
            for layer, part in enumerate(parts)
            for handle in (
                part.register_forward_pre_hook(partial(_masked, watch, layer), with_kwargs=True),
                part.register_forward_hook(partial(_shown, watch, layer)),
            )
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.lm.set_attn_implementation(before)

    def _ids(self, text: str, n_words: int) -> list[int]:
        """Token ids of a text; refuses ids that the thought tokens have taken."""
        ids, bos = list(self.tokenizer(text)["input_ids"]), self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:  # the text had one already
            ids = ids[1:]
        taken = (self.start_ids[-1], self.end_ids[0]) if self.start_ids else ()  # else they are words
        if odd := [i for i in ids if i >= n_words or i in taken]:
            raise DataError(
                f"The text {text[:40]!r} has token id {max(odd)}, which is no word's: "
                f"the tokenizer does not belong to the base model, or the text holds special tokens"
            )
        return ids

    def _to_text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _embed(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new d"]:
        return self.lm.get_input_embeddings()(ids)

    def _new_cache(self) -> DynamicCache:
        return DynamicCache()

    def _forward(
        self,
        x: Float[Tensor, "batch new d"],
        cache: DynamicCache,
        mask: Bool[Tensor, "batch seq"],
        position_ids: Int[Tensor, "batch new"],
        tap: Through | None,
    ) -> Float[Tensor, "batch new d"]:
        with _tapped(self.blocks, tap, self.d_head if "heads" in self.sites else None):
            return self.decoder(
                inputs_embeds=x,
                attention_mask=mask.long(),
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state

    def _unembed(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return self.output.head(h)

    def readout(self, h: Float[Tensor, "*batch d"], site: str) -> Float[Tensor, "*batch vocab"]:
        """Logit lens. `thought_out` has passed the final norm already; the other sites have not."""
        if site not in SITES or site == "kv":
            raise HookError(f"Expected site thought_in, resid or thought_out to read out, got {site!r}")
        h = h.to(self.device, self.lm.dtype)
        if site == "thought_out":
            return self._unembed(h)
        return self.output(h.reshape(-1, h.shape[-1])).view(*h.shape[:-1], -1)

    def _memory(self, state: State, layer: int) -> tuple[Tensor, Tensor]:
        held = state.cache.layers[layer]
        return held.keys, held.values

    def _remember(self, state: State, layer: int, k: Tensor, v: Tensor) -> None:
        held = state.cache.layers[layer]
        held.keys, held.values = k, v


def asked(question: str, prompt: str) -> str:
    """What is read for a question: the prompt with the question in it."""
    return prompt.replace("{question}", question)


def _masked(watch: Watch, layer: int, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The call of a block's attention, without the edges that are cut."""
    if layer not in watch.cut:
        return args, kwargs
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 4 or not mask.is_floating_point():
        raise HookError(f"{type(module).__name__} takes no mask that says which edges are cut")
    return args, {**kwargs, "attention_mask": watch.masked(layer, mask)}


def _shown(watch: Watch, layer: int, module: nn.Module, args: tuple, output: Any) -> None:
    """Keep the weights of a block's attention."""
    weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    if not isinstance(weights, Tensor) or weights.ndim != 4:
        raise HookError(
            f"the attention of layer {layer} cannot be seen: {type(module).__name__} keeps no weights"
        )
    watch.weights[layer] = weights


@contextmanager
def _tapped(blocks: Sequence[nn.Module], tap: Through | None, d_head: int | None) -> Iterator[None]:
    """While open, every block's output goes through the tap, and with a width of heads its parts' do."""
    if tap is None:
        yield
        return

    def out(site: str, layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (tap(site, output[0], layer), *output[1:])
            return tap(site, output, layer)

        return hook

    def heads(layer: int) -> Any:
        def hook(module: nn.Module, args: Any) -> Any:
            return (tap("heads", args[0].unflatten(-1, (-1, d_head)), layer).flatten(-2), *args[1:])

        return hook

    handles = []
    for i, block in enumerate(blocks):
        handles.append(block.register_forward_hook(out("resid", i)))
        if d_head is not None:
            attn, mlp, mixing = parts_of(block)
            assert attn is not None and mlp is not None and mixing is not None
            handles.append(mixing.register_forward_pre_hook(heads(i)))
            handles += [
                part.register_forward_hook(out(site, i)) for site, part in (("attn", attn), ("mlp", mlp))
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
