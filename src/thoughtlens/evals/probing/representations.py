"""What a probe may look at: arms (which vectors) and poolings (how a problem's vectors become one row).

Both are small dictionaries of functions. Every arm goes through every pooling, so that two arms are
never compared across poolings by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.evals.probing.coders import CellKey, Coders
from thoughtlens.evals.probing.matrices import Matrix, compact, fires, join, maximum, mean
from thoughtlens.sae.normalization import Cell

Cells = Sequence[CellKey]
Encode = Callable[[Coders, Float[Tensor, "n d_in"], Cell], Float[Tensor, "n d_arm"]]


def _sae(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return coders.sae.encode(x, coders.cell(cell, len(x)))


def _reconstruction(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return coders.sae(x, coders.cell(cell, len(x)))


def _raw(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return x


def _pca(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return coders.pca.encode(x)[:, : coders.k_l0]


def _pca_live(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return coders.pca.encode(x)[:, : coders.k_live]


def _pca_all(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return coders.pca.encode(x)


def _projection(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return x @ coders.projection.to(x.dtype)


def _random_sae(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    assert coders.random_sae is not None
    return coders.random_sae.encode(x, coders.cell(cell, len(x)))


def _frozen(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    sae = coders.frozen_sae
    assert sae is not None
    index = None if sae.cells is None else sae.cell_index([cell], torch.zeros(len(x), dtype=torch.long))
    return sae.encode(x, index)


@dataclass(frozen=True)
class Arm:
    """A representation that is scored: its vectors, or the text, or nothing."""

    kind: Literal["vectors", "text", "counts", "none"]
    encode: Encode | None = None
    thoughts: tuple[int, ...] | None = None
    """Only the cells of these thoughts."""
    permuted: bool = False
    """Labels shuffled over groups: what the whole procedure gives when there is nothing to find."""
    top: bool = False
    """Only the k columns that say most about the label in the training fold, k chosen there too."""
    what: str = ""


ARMS: dict[str, Arm] = {
    "sae": Arm("vectors", _sae, what="SAE latents"),
    "raw": Arm("vectors", _raw, what="raw activations"),
    "sae_reconstruction": Arm("vectors", _reconstruction, what="what the SAE gives back of them"),
    "pca": Arm("vectors", _pca, what="principal components of the SAE's training rows, as many as L0"),
    "pca_live": Arm("vectors", _pca_live, what="principal components, as many as latents fire at all"),
    "random_projection": Arm("vectors", _projection, what="random directions, as many as L0"),
    "random_sae": Arm("vectors", _random_sae, what="latents of a random SAE of the same kind and sparsity"),
    "frozen_decoder": Arm(
        "vectors", _frozen, what="latents of an SAE of the same kind whose decoder stayed random"
    ),
    "top_latents": Arm("vectors", _sae, top=True, what="the k SAE latents that say most, k chosen inside"),
    "top_neurons": Arm(
        "vectors", _raw, top=True, what="the k coordinates of raw activations that say most, k chosen inside"
    ),
    "top_pcs": Arm(
        "vectors", _pca_all, top=True, what="the k principal components that say most, k chosen inside"
    ),
    "begin_of_thought": Arm(
        "vectors", _raw, thoughts=(0,), what="raw activations of the begin-of-thought position alone"
    ),
    "text": Arm("text", what="TF-IDF of the words"),
    "text_counts": Arm("counts", what="length of the text, count and size of its numbers, number of steps"),
    "majority": Arm("none", what="the most frequent class of the training fold, or its mean"),
    "permuted": Arm("vectors", _raw, permuted=True, what="raw activations, labels shuffled"),
}
USUAL_ARMS = (
    "sae", "raw", "sae_reconstruction", "pca", "begin_of_thought", "text", "text_counts", "majority",
    "permuted",
)  # fmt: skip
"""Arms scored unless a config says otherwise."""


def code(arm: Arm, coders: Coders, x: Float[Tensor, "n d_in"], cell: Cell) -> Matrix:
    """An arm's features of raw vectors of one cell; CSR where most are 0."""
    assert arm.encode is not None
    with torch.no_grad():
        features = arm.encode(coders, x.to(coders.sae.W_enc.dtype), cell).float().numpy()
    return compact(features)


@dataclass(frozen=True)
class Pooling:
    """Which cells become one block of columns, and how; blocks stand side by side."""

    block: Callable[[CellKey], object]
    """Cells with the same value make one block; None leaves a cell out. Never of two SAEs."""
    reduce: Callable[[list[Matrix]], Matrix]
    last_only: bool = False
    """Only the last thought."""
    weighted: bool = False
    """Blocks are not reduced: their cells are weighted by attention that is learned."""
    what: str = ""

    def blocks(self, cells: Cells) -> list[list[int]]:
        """Which cells make up each block."""
        last = max((thought or 0 for _, thought, _ in cells), default=0)
        found: dict[object, list[int]] = {}
        for i, cell in enumerate(cells):
            if not self.last_only or (cell[1] or 0) == last:
                found.setdefault(self.block(cell), []).append(i)
        return list(found.values())

    def __call__(self, parts: list[Matrix], cells: Cells) -> Matrix:
        """One row a unit, of its cells' matrices."""
        return join([self.reduce([parts[i] for i in block]) for block in self.blocks(cells)])


def _binary(parts: list[Matrix]) -> Matrix:
    return mean([fires(part) for part in parts])


CELL_POOLINGS: dict[str, Pooling] = {
    "concat": Pooling(lambda c: c, mean, what="all cells side by side"),
    "mean_thoughts": Pooling(
        lambda c: (c[0], c[2]), mean, what="mean over thoughts for each hook, hooks side by side"
    ),
    "mean_all": Pooling(lambda c: c[2], mean, what="mean over all cells"),
    "max_all": Pooling(lambda c: c[2], maximum, what="largest value over all cells"),
    "binary": Pooling(lambda c: c[2], _binary, what="share of the cells in which a value is above 0"),
    "last_thought": Pooling(
        lambda c: c, mean, last_only=True, what="the last thought of each hook, side by side"
    ),
    "attention": Pooling(
        lambda c: c[2], mean, weighted=True, what="mean over all cells with weights learned by the probe"
    ),
}
"""Problems as thoughts. Means never mix cells of two SAEs."""

TOKEN_POOLINGS: dict[str, Callable[[Float[Tensor, "rows d"]], Float[Tensor, " d"]]] = {
    "mean": lambda acts: acts.mean(0),
    "last": lambda acts: acts[-1],
    "max": lambda acts: acts.amax(0),
    "binary": lambda acts: (acts > 0).to(acts.dtype).mean(0),
}
"""Texts: over the tokens of one text, taken after encoding."""


def cell_name(cell: CellKey) -> str:
    """How a single cell is called among the poolings."""
    return f"cell:{cell[0]}/{cell[1]}"
