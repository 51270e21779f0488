"""What reads a thought: per thought a place, and the words that its states are read as."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.latents import Readout
from thoughtlens.models import Place

LOGIT = "logit lens"
OUT = "thought_out"


@dataclass(frozen=True, eq=False)
class Lens:
    """Reads states of one place as words."""

    kind: str
    hook_name: str
    shares: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n tokens"]]
    """States to the probability of each token, or class."""
    word_of: Int[np.ndarray, " tokens"]
    """The word of each, as `Lenses.words` counts them."""
    chunk: int = 4096
    """States at a time."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """What was fitted."""


@dataclass(frozen=True, eq=False)
class Lenses:
    """A lens for each thought."""

    words: list[str]
    """The words that are read; the last one, empty, is read where a problem has no such thought."""
    at: Mapping[int, Lens]
    """By thought."""

    @property
    def places(self) -> list[Place]:
        """Where they read, of any thought."""
        return [Place(hook) for hook in dict.fromkeys(lens.hook_name for lens in self.at.values())]


def logit_lens(readout: Readout, thoughts: Sequence[int]) -> Lenses:
    """The model's own output side at every thought."""
    return Lenses([*readout.words, ""], dict.fromkeys(thoughts, through(readout)))


def through(readout: Readout) -> Lens:
    """The model's own output side."""

    def shares(x: Tensor) -> Tensor:
        return readout.logits(x, OUT).softmax(-1)

    return Lens(LOGIT, OUT, shares, readout.word_of, readout.chunk)


def first_token(readout: Readout, tokenizer: Any, before: str = "") -> Callable[[str], str]:
    """What a number begins with when this model writes it: its first token, as the lens reads it.

    `before` is what it is written after, as the space before a word inside a sentence.
    Without a tokenizer of transformers, the longest beginning that is a word of the model.
    """

    def first(number: str) -> str:
        ids = tokenizer.encode(before + number, add_special_tokens=False)
        return next((word for i in ids if (word := readout.texts[i].strip())), number)

    def longest(number: str) -> str:
        parts = (number[:k] for k in range(len(number), 0, -1))
        return next((part for part in parts if part in readout.words), number)

    return first if hasattr(tokenizer, "convert_ids_to_tokens") else longest


class Crowd(NamedTuple):
    """Probabilities of many problems at one thought, summed."""

    total: Float[Tensor, " tokens"]
    n: int


@dataclass(frozen=True, eq=False)
class Look:
    """One thought of some problems through a lens; of those that stopped before, no word and NaN."""

    words: Int[np.ndarray, "n top"]
    """The likeliest words, the likeliest first; -1: none."""
    shares: Float[np.ndarray, "n top"]
    null: Float[np.ndarray, " n"]
    """The probability of the likeliest word at this thought of the other problems, mean; NaN without any."""
    entropy: Float[np.ndarray, " n"]
    """Of all probabilities, nats."""
    crowd: Crowd
    """Of these problems."""


@torch.no_grad()
def look(
    lens: Lens,
    x: Float[Tensor, "n d"],
    *,
    top: int = 1,
    crowd: Crowd | None = None,
    among: Sequence[bool] | None = None,
) -> Look:
    """Read the states of one thought.

    Args:
        lens: What reads.
        x: One state for each problem.
        top: Words listed.
        crowd: The problems that a reading is held against; None: these ones, each against the others.
        among: Which of these problems are in the crowd, too; None: none.
    """
    there = torch.from_numpy(~x.isnan().any(-1).cpu().numpy())
    parts = list(_parts(lens, x[there], top))
    totals, tokens, shares, entropy = zip(*parts, strict=True) if parts else ((), (), (), ())
    own = Crowd(torch.stack(totals).sum(0) if totals else torch.zeros(0), int(there.sum()))
    n, top = len(x), min(top, len(lens.word_of))
    nothing = np.full(n, np.nan)
    found = Look(np.full((n, top), -1), np.full((n, top), np.nan), nothing, nothing.copy(), own)
    if not parts:
        return found
    where, ids, p = there.numpy(), torch.cat(tokens), torch.cat(shares).double()
    held = crowd or own
    inside = torch.ones(len(p)) if crowd is None else torch.zeros(len(p))
    if crowd is not None and among is not None:
        inside = torch.tensor(among, dtype=torch.float32)[there]
    others = held.n - inside
    rest = (held.total[ids[:, 0]] if held.n else torch.zeros(len(p))) - inside * p[:, 0]
    found.null[where] = torch.where(others > 0, rest.clamp_min(0) / others.clamp_min(1), torch.nan).numpy()
    found.words[where], found.shares[where] = lens.word_of[ids.numpy()], p.numpy()
    found.entropy[where] = torch.cat(entropy).double().numpy()
    return found


def _parts(lens: Lens, x: Tensor, top: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    for rows in x.split(lens.chunk) if len(x) else ():
        p = lens.shares(rows).cpu()
        best = p.topk(min(top, p.shape[-1]))
        yield p.double().sum(0), best.indices, best.values, torch.special.entr(p).sum(-1)
