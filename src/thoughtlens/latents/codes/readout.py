"""The output side of the model behind a store: final norm, unembedding, and what its tokens read as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts import ActivationStore
from thoughtlens.core import MismatchError
from thoughtlens.latents.codes.tokens import token_texts
from thoughtlens.models import ThoughtModel

if TYPE_CHECKING:
    from thoughtlens.latents.lens.config import LensConfig
    from thoughtlens.models import LanguageModel

CHUNK = 1 << 22
"""Logits held at once."""


@dataclass(frozen=True, eq=False)
class Readout:
    """Logit lens (nostalgebraist 2020): softmax(W_U norm(x)), the norm left out where x has passed it.

    What else the model does to its logits, a scale or a cap, is done to these too.
    """

    unembed: Callable[[Tensor, str], Tensor]
    """States [n, d] at a hook name to logits [n, vocab]."""
    d: int
    n_vocab: int
    read: Callable[[Sequence[int]], dict[int, str]]
    """Token ids to texts."""

    def logits(self, x: Float[Tensor, "n d"], hook_name: str) -> Float[Tensor, "n vocab"]:
        """Logits in float32, in the model's place; gradients flow to x."""
        if x.shape[-1] != self.d:
            raise MismatchError(
                f"{hook_name} has width {x.shape[-1]}, the model's final norm reads {self.d}: only states of "
                f"the residual stream can be read through it"
            )
        return self.unembed(x, hook_name).float()

    def likeliest(self, x: Float[Tensor, "n d"], hook_name: str, top: int) -> list[list[tuple[str, float]]]:
        """Per state, the `top` likeliest tokens without the spaces around them, and their probabilities.

        None of a thought that a problem did not have.
        """
        best, ids = self.logits(x, hook_name).softmax(-1).topk(min(top, self.n_vocab), dim=-1)
        words = [[self.texts[i].strip() for i in row] for row in ids.tolist()]
        had = (~x.isnan().any(-1)).tolist()
        rows = zip(had, words, best.tolist(), strict=True)
        return [list(zip(said, p, strict=True)) if there else [] for there, said, p in rows]

    @property
    def chunk(self) -> int:
        """Rows whose logits are held at once."""
        return max(1, CHUNK // self.n_vocab)

    @cached_property
    def texts(self) -> list[str]:
        """Every token as text; an id without one is given as its number."""
        found = self.read(range(self.n_vocab))
        return [found[i] or f"<{i}>" for i in range(self.n_vocab)]

    @cached_property
    def words(self) -> dict[str, int]:
        """Number of each text without its surrounding spaces: " 7" and "7" are one word."""
        return {word: i for i, word in enumerate(dict.fromkeys(text.strip() for text in self.texts))}

    @cached_property
    def word_of(self) -> Int[np.ndarray, " vocab"]:
        """The word of each token."""
        return np.array([self.words[text.strip()] for text in self.texts])


@dataclass(frozen=True, eq=False)
class LensInput:
    """What is read: a store, as the settings say, through the output side of the model behind it."""

    cfg: LensConfig
    store: ActivationStore
    readout: Readout


def of_thoughts(model: ThoughtModel) -> Readout:
    """The output side of a thought model."""

    def unembed(x: Tensor, hook_name: str) -> Tensor:
        if x.shape[-1] != model.spec.d:
            raise MismatchError(
                f"{hook_name} is {x.shape[-1]} wide, and what {model.name} says is read from states of width "
                f"{model.spec.d}: a single head, or a vector of another model, is no state of its stream; "
                f"leave it out of this"
            )
        # thought_out has passed the final norm; everything else has not
        return model.readout(x, "thought_out" if hook_name == "thought_out" else "resid")

    def read(ids: Sequence[int]) -> dict[int, str]:
        if (own := model.words(ids)) is not None:
            return own
        if (tokenizer := model.tokenizer) is None:
            return {i: f"token {i}" for i in ids}
        there = [i for i in ids if i < len(tokenizer)]  # thought tokens may be the checkpoint's own
        return dict.fromkeys(ids, "") | token_texts(tokenizer, there)

    return Readout(unembed, model.spec.d, _n_vocab(unembed, model.spec.d), read)


def of_text(lm: LanguageModel) -> Readout:
    """The output side of a language model.

    Raises:
        HookError: no way was found from its blocks to its logits.
    """
    from thoughtlens.models import OutputSide  # here: it loads transformers

    side = OutputSide(lm.model)
    return Readout(
        lambda x, hook_name: side(x), side.d, side.n_vocab, lambda ids: token_texts(lm.tokenizer, ids)
    )


@torch.no_grad()
def _n_vocab(unembed: Callable[[Tensor, str], Tensor], d: int) -> int:
    return unembed(torch.zeros(1, d), "").shape[-1]
