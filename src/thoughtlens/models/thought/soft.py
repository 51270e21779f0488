"""Soft tokens (Soft Thinking, Zhang et al. 2025, arXiv:2505.15778): a thought is a mixture of words.

Any causal language model thinks so without having been trained to: z_{p+1} = sum_v q_p(v) E[v], the mean of
the token embeddings under the model's own next-token distribution q_p, sharpened by a temperature and cut
to its likeliest tokens. Thought 0 is the last token of the prompt; z_1 is made of what it expects next.

Each problem stops for itself. It has no thought p + 1 where, after thought p, the end token is the
likeliest (or as likely as `end_probability`), or where the entropy of q_p has been below `stop_entropy`
for `stop_after` thoughts in a row; and at `n_thoughts` all stop. The end token and the answer, in words,
greedily, come next. Of the publisher's loop only the sampling of the answer and the noise are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from thoughtlens.core import ConfigError
from thoughtlens.models.hf.load import load as load_language_model
from thoughtlens.models.thought.checkpoint import Base, describe
from thoughtlens.models.thought.sequence import HFThoughts, asked
from thoughtlens.models.thought.sites import Outside, ThoughtSpec
from thoughtlens.models.thought.thoughts import State

END = "</think>"
"""What ends the thoughts of models that were trained to reason in words."""


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Which words a thought is mixed of."""

    temperature: float = 0.6
    """Of the next-token distribution; 0: the likeliest token alone, which is thinking in words."""
    top_k: int = 30
    """The likeliest tokens that are kept; 0: all."""
    top_p: float = 0.95
    """Of those, the fewest that have this share of their probability."""
    min_p: float = 0.0
    """Of those, the ones at least this likely relative to the likeliest."""
    max_topk: int = 15
    """Of those, the likeliest that are mixed; 0: all."""

    def __post_init__(self) -> None:
        for name, low, high in (("temperature", 0, 1e3), ("top_p", 0, 1), ("min_p", 0, 1)):
            if not low <= getattr(self, name) <= high or (name == "top_p" and not self.top_p):
                raise ConfigError(
                    f"{name}: expected a number from {low} to {high:g}, got {getattr(self, name)}"
                )
        for name in ("top_k", "max_topk"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected a whole number >= 0, got {getattr(self, name)}")

    def distribution(self, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
        """Of the next token, before anything is cut off; float32."""
        if not self.temperature:
            return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
        return (logits.float() / self.temperature).softmax(-1)

    def cut(
        self, q: Float[Tensor, "batch vocab"]
    ) -> tuple[Float[Tensor, "batch kept"], Int[Tensor, "batch kept"]]:
        """Weights of the tokens that are mixed, which sum to 1, and those tokens, the likeliest first."""
        weights, ids = q.topk(min(self.top_k or q.shape[1], q.shape[1]))
        weights = weights / weights.sum(-1, keepdim=True)
        before = weights.cumsum(-1) - weights
        weights = weights.masked_fill((before >= self.top_p) & (before > 0), 0)
        weights = weights.masked_fill(weights < self.min_p * weights[:, :1], 0)
        weights = weights[:, : self.max_topk or None]
        return weights / weights.sum(-1, keepdim=True), ids[:, : weights.shape[1]]


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When a problem has thought enough."""

    end_probability: float | None = None
    """Probability of the end token from which on it stops; None: as soon as no token is likelier."""
    stop_entropy: float = 0.0
    """Entropy, in nats, of the next-token distribution before it is cut; 0: does not matter."""
    stop_after: int = 256
    """Thoughts in a row whose entropy must be lower."""

    def __post_init__(self) -> None:
        if self.end_probability is not None and not 0 < self.end_probability <= 1:
            raise ConfigError(f"end_probability: expected more than 0, at most 1, got {self.end_probability}")
        if self.stop_entropy < 0 or self.stop_after < 1:
            got = f"{self.stop_entropy} and {self.stop_after}"
            raise ConfigError(f"stop_entropy and stop_after: expected >= 0 and >= 1, got {got}")

    def ends(self, q: Float[Tensor, "batch vocab"], end: int) -> Tensor:
        """Whether the end token comes next, [batch]."""
        return q.argmax(-1) == end if self.end_probability is None else q[:, end] >= self.end_probability


@dataclass(frozen=True, kw_only=True)
class SoftState(State):
    """Where the thinking of a batch stands, and for how long each problem has been sure."""

    sure: Int[Tensor, " batch"]
    """Thoughts in a row, up to now, with an entropy below `stop_entropy`."""


class Soft(HFThoughts):
    """A causal language model fed with mixtures of its own words."""

    start_ids = ()

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_ids: Sequence[int],
        mixing: Mixing,
        stopping: Stopping,
        n_thoughts: int,
        prompt: str | None = None,
    ) -> None:
        super().__init__(lm, tokenizer)
        self.end_ids, self.mixing, self.stopping, self.prompt = tuple(end_ids), mixing, stopping, prompt
        self.mode_ids = {"words": (), "direct": self.end_ids}
        self.n_vocab = int(lm.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
        self.spec = ThoughtSpec(
            n_thoughts=n_thoughts,
            n_layers=len(self.blocks),
            n_cue=len(self.end_ids),
            sites=self.sites,
            d=lm.config.get_text_config().hidden_size,
            feedback_layer=len(self.blocks),
            has_projection=False,
            varies=True,
        )

    def reads(self, question: str) -> str:
        """See `ThoughtModel.reads`: in the model's own chat template, where it has one."""
        if self.prompt is not None:
            return asked(question, self.prompt)
        if not self.tokenizer.chat_template:
            return asked(question, "{question}\n")
        chat = [{"role": "user", "content": question}]
        return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))

    def encode(self, questions: Sequence[str], outside: Outside | None = None) -> SoftState:
        """See `ThoughtModel.encode`."""
        state = super().encode(questions, outside)
        everyone = torch.ones_like(state.positions, dtype=torch.bool)
        own: dict[str, Any] = vars(state) | {"thinking": everyone}
        return SoftState(**own, sure=torch.zeros_like(state.positions))

    def _tokenize(self, question: str) -> list[int]:
        return self._ids(self.reads(question), self.n_vocab) if question.strip() else []

    def _fed(self, state: State, u: Float[Tensor, "batch 1 d"]) -> State:
        assert isinstance(state, SoftState) and state.thinking is not None
        q = self.mixing.distribution(self._unembed(u[:, 0]))
        entropy = -torch.special.xlogy(q, q).sum(-1)
        sure = torch.where(entropy < self.stopping.stop_entropy, state.sure + 1, 0)
        stops = self.stopping.ends(q, self.end_ids[0]) | (sure >= self.stopping.stop_after)
        return replace(state, pending=self._mixed(q), thinking=state.thinking & ~stops, sure=sure)

    def _feed_back(self, u: Float[Tensor, "batch 1 d"]) -> Float[Tensor, "batch 1 d"]:
        return self._mixed(self.mixing.distribution(self._unembed(u[:, 0])))

    def _mixed(self, q: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch 1 d"]:
        weights, ids = self.mixing.cut(q)
        return (weights[:, None] @ self._embed(ids).float()).to(self.lm.dtype)


def load(
    name: str | Path,
    *,
    n_thoughts: int = 32,
    prompt: str | None = None,
    end: str | None = None,
    temperature: float = 0.6,
    top_k: int = 30,
    top_p: float = 0.95,
    min_p: float = 0.0,
    max_topk: int = 15,
    end_probability: float | None = None,
    stop_entropy: float = 0.0,
    stop_after: int = 256,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
) -> Soft:
    """A causal language model that thinks in soft tokens: every weight of it accounted for.

    Args:
        name: What `models.load` takes: a bundled name, hub id, directory or GGUF file.
        n_thoughts: Most thoughts; a problem may stop before.
        prompt: What is read for a question, with `{question}`; None: the model's own chat template, without
            one the question and a line end. Thought 0 is its last token.
        end: What comes between thoughts and answer, `</think>` where the tokenizer has it as one token. That
            its first token comes next stops a problem.
        temperature, top_k, top_p, min_p, max_topk: See `Mixing`; the defaults are the publisher's.
        end_probability, stop_entropy, stop_after: See `Stopping`.
        dtype: What to compute in; distributions are float32.
        device: A torch device.
        revision: Commit, tag or branch on the hub.

    Raises:
        NotThereError, CheckpointError, ResourceError: see `models.hf.load.load`.
        ConfigError: a setting out of range, or a tokenizer without `</think>` and no `end`.
    """
    mixing = Mixing(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, max_topk=max_topk)
    stopping = Stopping(end_probability=end_probability, stop_entropy=stop_entropy, stop_after=stop_after)
    if not temperature and stop_entropy:
        raise ConfigError("stop_entropy: at temperature 0 every entropy is 0; set one of the two")
    found = load_language_model(str(name), dtype=dtype, device=device, revision=revision)
    end_ids = _end(found.tokenizer, end, str(name))
    model = Soft(
        found.model,
        found.tokenizer,
        end_ids=end_ids,
        mixing=mixing,
        stopping=stopping,
        n_thoughts=n_thoughts,
        prompt=prompt,
    )
    model.name, model.revision, model.digest = str(name), found.revision, found.digest
    model.tokenizer_digest = found.tokenizer_digest
    own = {"n_thoughts": n_thoughts, "end": END if end is None else end, **vars(mixing), **vars(stopping)}
    model.settings = {"family": "soft", "prompt": prompt, **own}
    base = Base(name=str(name), config=found.model.config, tokenizer=found.tokenizer)
    model.config_hash = describe(
        model.settings, base, weights=found.digest, tokenizer=found.tokenizer_digest, dtype=dtype,
        padding="left, masked", end=end_ids, template=found.tokenizer.chat_template,
    )  # fmt: skip
    return model


def _end(tokenizer: PreTrainedTokenizerBase, end: str | None, name: str) -> list[int]:
    """Tokens between thoughts and answer."""
    ids = list(tokenizer(END if end is None else end, add_special_tokens=False)["input_ids"])
    if end is None and len(ids) != 1:
        raise ConfigError(
            f"{name} has no token {END}: say what ends its thoughts, and what its answer follows, such as "
            f"options=\"end='\\nThe answer is'\""
        )
    if not ids:
        raise ConfigError("end: expected at least one token")
    return ids
