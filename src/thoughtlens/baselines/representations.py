"""What a probe may look at: arms (which vectors) and poolings (how a problem's vectors become one row).

Both are small dictionaries of functions. Every arm goes through every pooling, so that two arms are
never compared across poolings by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.baselines.matrices import Matrix, compact, join, maximum, mean
from thoughtlens.baselines.pca import PCA
from thoughtlens.sae import SAE
from thoughtlens.sae.normalization import Cell

Cells = Sequence[tuple[str, int | None, str]]
"""(hook_name, thought_idx, name of the SAE that covers it)."""


@dataclass(frozen=True, eq=False)
class Coders:
    """What turns raw vectors of a cell into an arm's features."""

    sae: SAE
    pca: PCA
    """Principal components of the SAE's training vectors of this cell's hook."""

    def cell(self, cell: Cell, n: int) -> Int[Tensor, " n"] | None:
        """What the SAE wants to know about n vectors of one cell."""
        return self.sae.cell_index([cell], np.zeros(n, np.int64))


Encode = Callable[[Coders, Float[Tensor, "n d_in"], Cell], Float[Tensor, "n d_arm"]]


def _sae(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return coders.sae.encode(x, coders.cell(cell, len(x)))


def _reconstruction(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return coders.sae(x, coders.cell(cell, len(x)))


def _raw(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return x


def _pca(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return coders.pca.encode(x)


@dataclass(frozen=True)
class Arm:
    """A representation that is scored: its vectors, or the text, or nothing."""

    kind: Literal["vectors", "text", "none"]
    encode: Encode | None = None
    thoughts: tuple[int, ...] | None = None
    """Only the cells of these thoughts."""
    permuted: bool = False
    """Labels shuffled over groups: what the whole procedure gives when there is nothing to find."""
    what: str = ""


ARMS: dict[str, Arm] = {
    "sae": Arm("vectors", _sae, what="SAE latents"),
    "raw": Arm("vectors", _raw, what="raw activations"),
    "sae_reconstruction": Arm("vectors", _reconstruction, what="what the SAE gives back of them"),
    "pca": Arm("vectors", _pca, what="principal components of the SAE's training rows, as many as L0"),
    "begin_of_thought": Arm(
        "vectors", _raw, thoughts=(0,), what="raw activations of the begin-of-thought position alone"
    ),
    "text": Arm("text", what="TF-IDF of the words"),
    "majority": Arm("none", what="the most frequent class of the training fold"),
    "permuted": Arm("vectors", _raw, permuted=True, what="raw activations, labels shuffled"),
}


def code(arm: Arm, coders: Coders, x: Float[Tensor, "n d_in"], cell: Cell) -> Matrix:
    """An arm's features of raw vectors of one cell; CSR where most are 0."""
    assert arm.encode is not None
    with torch.no_grad():
        features = arm.encode(coders, x.to(coders.sae.W_enc.dtype), cell).float().numpy()
    return compact(features)


Pooling = Callable[[list[Matrix], Cells], Matrix]


def _concat(parts: list[Matrix], cells: Cells) -> Matrix:
    return join(parts)


def _mean_thoughts(parts: list[Matrix], cells: Cells) -> Matrix:
    return join([mean([parts[i] for i in group]) for group in _groups(cells, lambda c: (c[0], c[2]))])


def _mean_all(parts: list[Matrix], cells: Cells) -> Matrix:
    return join([mean([parts[i] for i in group]) for group in _groups(cells, lambda c: c[2])])


def _max_all(parts: list[Matrix], cells: Cells) -> Matrix:
    return join([maximum([parts[i] for i in group]) for group in _groups(cells, lambda c: c[2])])


def _last_thought(parts: list[Matrix], cells: Cells) -> Matrix:
    last = max(thought or 0 for _, thought, _ in cells)
    return join([part for part, cell in zip(parts, cells, strict=True) if (cell[1] or 0) == last])


CELL_POOLINGS: dict[str, Pooling] = {
    "concat": _concat,
    "mean_thoughts": _mean_thoughts,
    "mean_all": _mean_all,
    "max_all": _max_all,
    "last_thought": _last_thought,
}
"""Problems as thoughts: all cells side by side; mean over thoughts per hook, hooks side by side; mean or
maximum over everything; the last thought of every hook. Means never mix cells of two SAEs."""

TOKEN_POOLINGS: dict[str, Callable[[Float[Tensor, "rows d"]], Float[Tensor, " d"]]] = {
    "mean": lambda acts: acts.mean(0),
    "last": lambda acts: acts[-1],
    "max": lambda acts: acts.amax(0),
}
"""Texts: over the tokens of one text, taken after encoding."""


def _groups(cells: Cells, key: Callable[[tuple[str, int | None, str]], object]) -> list[list[int]]:
    found: dict[object, list[int]] = {}
    for i, cell in enumerate(cells):
        found.setdefault(key(cell), []).append(i)
    return list(found.values())
