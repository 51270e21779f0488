"""A model's own chain of thought in words on the interface of thoughts, token by token.

Thought 0 is the position before the chain, thought p its token p: `thought_in` is that token's embedding,
`thought_out` the state that says the next one, which is the likeliest. What is measured on thoughts is
measured on the words of the same model by the same code. A problem whose chain ends has no further ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import ConfigError
from thoughtlens.models.thought.sites import Outside
from thoughtlens.models.thought.thoughts import Answer, State, Tap, ThoughtModel, parse_number, require_mode
from thoughtlens.models.thought.tiny import TinyThoughts
from thoughtlens.models.thought.tiny_decoder import ANS, COT

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Said(State):
    """Where the chain of a batch stands."""

    said: Int[Tensor, "batch tokens"]
    """Tokens of the chain, the one that comes in next last; a chain that has ended repeats its end."""


def in_words(model: ThoughtModel, n_tokens: int | None = None) -> ThoughtModel:
    """The model's chain of thought in words as a thought model.

    Args:
        model: One that answers in mode `words`.
        n_tokens: Tokens of the chain that count as thoughts; None: as many as the model has thoughts.

    Raises:
        ConfigError: the model does not write a chain of thought, or not by one token after the other.
    """
    require_mode(model, "words")
    n = model.spec.n_thoughts if n_tokens is None else n_tokens
    if isinstance(model, TinyThoughts):
        return TinyWords(model, n)
    from thoughtlens.models.thought.sequence import SequenceThoughts  # here, since it loads transformers

    if not isinstance(model, SequenceThoughts):
        raise ConfigError(f"{model.name}: the chain of thought of this family cannot be run token by token")
    kind = type(f"{type(model).__name__}InWords", (_SequenceWords, type(model)), {})
    twin: Any = object.__new__(kind)
    twin.__dict__.update(vars(model))
    twin.spec = _spec(model, n)
    twin.start_ids = model.mode_ids["words"]
    return twin


def _spec(model: ThoughtModel, n: int) -> Any:
    return replace(
        model.spec, n_thoughts=n, feedback_layer=model.spec.n_layers, has_projection=False, feeds_back=True,
        reads_last=True, varies=True, n_cue=0,
    )  # fmt: skip


class TinyWords(TinyThoughts):
    """The chain that the teacher of a tiny model writes: up to the answer cue, which is no thought."""

    def __init__(self, model: TinyThoughts, n_tokens: int) -> None:
        super().__init__(model.decoder, model.name, model.digest or "")
        room = self.cfg.n_positions - self.cfg.question_len - 2
        if not 0 < n_tokens <= room:
            raise ConfigError(f"Expected 1..{room} tokens of this model's chain of thought, got {n_tokens}")
        self.spec = _spec(model, n_tokens)

    def encode(self, questions: Sequence[str], outside: Outside | None = None) -> Said:
        """See `ThoughtModel.encode`."""
        own: dict[str, Any] = vars(super().encode(questions, outside))
        begin = torch.full((len(questions), 1), COT, device=own["pending"].device)
        own |= {
            "pending": self.decoder.embed(begin),
            "thinking": torch.ones_like(begin[:, 0], dtype=torch.bool),
        }
        return Said(**own, said=begin)

    def _step(self, state: State, tap: Tap) -> State:
        assert isinstance(state, Said) and state.thinking is not None
        z, thinking = tap("thought_in", state.pending), state.thinking
        states, after = self._read(state, z, thinking, tap)
        out = tap("thought_out", states[-1])
        return self._next(after, self.decoder.unembed(out)[:, 0], thinking)

    def _read(
        self, state: Said, z: Tensor, real: Tensor, tap: Tap | None
    ) -> tuple[list[Float[Tensor, "batch 1 d"]], Said]:
        """Run one more token of each chain that is `real`; others are masked."""
        x = z + self.decoder.pos.weight[state.positions.clamp_max(self.cfg.n_positions - 1)][:, None]
        states, cache = self.decoder(x, state.cache, ~real[:, None], tap)
        mask = torch.cat([state.mask, real[:, None]], 1)
        return states, replace(state, cache=cache, mask=mask, positions=state.positions + real)

    def _next(self, state: Said, logits: Float[Tensor, "batch vocab"], thinking: Tensor) -> Said:
        token = torch.where(thinking, logits.argmax(-1), state.said[:, -1])[:, None]
        return replace(
            state,
            pending=self.decoder.embed(token),
            thinking=thinking & (token[:, 0] != ANS),
            said=torch.cat([state.said, token], 1),
        )

    @torch.no_grad()
    def answer(
        self, state: State, max_new_tokens: int = 256, teacher_ids: Int[Tensor, "*batch tokens"] | None = None
    ) -> Answer:
        """The rest of the chain, greedily, up to the answer cue, and what is said after it."""
        assert isinstance(state, Said) and state.thinking is not None
        said = torch.full_like(state.positions, -1)
        open_, logits = torch.ones_like(state.thinking), state.pending.new_zeros(0)
        while bool(open_.any()) and int(state.positions[open_].max()) < self.cfg.n_positions:
            cue = state.said[:, -1] == ANS
            states, state = self._read(state, state.pending, open_, None)
            now = self.decoder.unembed(states[-1])
            logits = torch.where(open_[:, None, None], now, logits) if len(logits) else now
            said = torch.where(open_ & cue, now[:, 0].argmax(-1), said)
            open_ = open_ & ~cue
            state = self._next(state, now[:, 0], open_)
        forced = [] if teacher_ids is None else teacher_ids.to(said.device).expand(len(said), -1).unbind(1)
        for token in forced:
            states, state = self._read(
                state, self.decoder.embed(token[:, None]), torch.ones_like(open_), None
            )
            logits = torch.cat([logits, self.decoder.unembed(states[-1])], 1)
        if forced:
            said = logits[:, -1].argmax(-1)
        ids = [[token] if token >= 0 and max_new_tokens else [] for token in said.tolist()]
        text = [self.tokenizer.decode(row) for row in ids]
        return Answer(text=text, ids=ids, logits=logits, value=[parse_number(one) for one in text])


class _SequenceWords:
    """Over a family along the sequence: what is fed back is the likeliest token, up to the chain's end."""

    if TYPE_CHECKING:
        start_ids: tuple[int, ...]
        end_ids: tuple[int, ...]
        eos_id: int
        banned_ids: tuple[int, ...]
        _embed: Any
        _extend: Any
        _generate: Any
        _to_text: Any
        _unembed: Any
        _value: Any
        context_length: int

    def encode(self, questions: Sequence[str], outside: Outside | None = None) -> Said:
        state = super().encode(questions, outside)  # type: ignore[misc]
        own: dict[str, Any] = vars(state) | {"thinking": torch.ones_like(state.positions, dtype=torch.bool)}
        own.pop("sure", None)
        return Said(**own, said=torch.full((len(questions), 1), -1, device=state.positions.device))

    def _prompt(self, i: int, question: str, begin: tuple[int, ...] | None = None) -> list[int]:
        return super()._prompt(i, question, self.start_ids if begin is None else begin)  # type: ignore[misc]

    def _fed(self, state: State, u: Float[Tensor, "batch 1 d"]) -> Said:
        assert isinstance(state, Said) and state.thinking is not None
        logits = self._unembed(u[:, 0]).clone()
        logits[:, list(self.banned_ids)] = -torch.inf
        token = torch.where(state.thinking, logits.argmax(-1), state.said[:, -1])
        return replace(
            state,
            pending=self._embed(token[:, None]),
            thinking=state.thinking & (token != self.eos_id) & (token != self.end_ids[0]),
            said=torch.cat([state.said, token[:, None]], 1),
        )

    @torch.no_grad()
    def answer(
        self, state: State, max_new_tokens: int = 256, teacher_ids: Int[Tensor, "*batch tokens"] | None = None
    ) -> Answer:
        """The rest of the text, greedily: behind the mark of the chain's end where the model writes one."""
        assert isinstance(state, Said)
        h, after = self._extend(self.clone(state), state.pending)  # type: ignore[attr-defined]
        forced = [] if teacher_ids is None else teacher_ids.to(h.device).expand(len(h), -1).unbind(1)
        parts = [h]
        for token in forced:
            h, after = self._extend(after, self._embed(token[:, None]))
            parts.append(h)
        logits = self._unembed(torch.cat(parts, 1))
        room = self.context_length - int(after.positions.max())
        rest = self._generate(after, logits[:, -1], min(max_new_tokens, room))
        rows = [[*chain[1:], *row] for chain, row in zip(state.said.tolist(), rest, strict=True)]
        rows = [row[: row.index(self.eos_id)] if self.eos_id in row else row for row in rows]
        end = self.end_ids[0]
        ids = [row[row.index(end) + 1 :] if end in row else row for row in rows]
        text = [self._to_text(row) for row in ids]
        return Answer(text=text, ids=ids, logits=logits, value=[self._value(one) for one in text])
