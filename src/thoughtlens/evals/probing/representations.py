"""What a probe looks at: arms (which vectors) and poolings (how a problem's vectors become one row).

`menu` says what each is; here they are functions. Every arm goes through every pooling, so that two arms are
never compared across poolings by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.evals.probing.coders import CellKey, Coders
from thoughtlens.evals.probing.matrices import Matrix, compact, fires, join, maximum, mean
from thoughtlens.sae import Cell

Cells = Sequence[CellKey]
Encode = Callable[[Coders, Float[Tensor, "n d_in"], Cell], Float[Tensor, "n d_arm"]]


def _sae(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return coders.sae.at(*cell).encode(x)


def _reconstruction(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    return coders.sae.at(*cell)(x)


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
    return coders.random_sae.at(*cell).encode(x)


def _frozen(coders: Coders, x: Tensor, cell: Cell) -> Tensor:
    sae = coders.frozen_sae
    assert sae is not None
    return sae.at(*cell).encode(x)


ENCODERS: dict[str, Encode] = {
    "sae": _sae,
    "raw": _raw,
    "sae_reconstruction": _reconstruction,
    "pca": _pca,
    "pca_live": _pca_live,
    "random_projection": _projection,
    "random_sae": _random_sae,
    "frozen_decoder": _frozen,
    "top_latents": _sae,
    "top_neurons": _raw,
    "top_pcs": _pca_all,
    "begin_of_thought": _raw,
    "permuted": _raw,
}
"""How each arm of vectors gets its features from raw vectors."""


def code(arm: str, coders: Coders, x: Float[Tensor, "n d_in"], cell: Cell) -> Matrix:
    """An arm's features of raw vectors of one cell; CSR where most are 0."""
    with torch.no_grad():
        features = ENCODERS[arm](coders, x.to(coders.sae.W_enc.dtype), cell).float().numpy()
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

    def blocks(self, cells: Cells) -> list[list[int]]:
        """Which cells make up each block."""
        last = max((thought or 0 for _, thought, _ in cells), default=0)
        found: dict[object, list[int]] = {}
        for i, cell in enumerate(cells):
            if not self.last_only or (cell[1] or 0) == last:
                found.setdefault(self.block(cell), []).append(i)
        return list(found.values())

    def __call__(self, parts: list[Matrix], cells: Cells) -> Matrix:
        """One row per unit, of its cells' matrices."""
        return join([self.reduce([parts[i] for i in block]) for block in self.blocks(cells)])


def _binary(parts: list[Matrix]) -> Matrix:
    return mean([fires(part) for part in parts])


CELL_POOLINGS: dict[str, Pooling] = {
    "concat": Pooling(lambda c: c, mean),
    "mean_thoughts": Pooling(lambda c: (c[0], c[2]), mean),
    "mean_all": Pooling(lambda c: c[2], mean),
    "max_all": Pooling(lambda c: c[2], maximum),
    "binary": Pooling(lambda c: c[2], _binary),
    "last_thought": Pooling(lambda c: c, mean, last_only=True),
    "attention": Pooling(lambda c: c[2], mean, weighted=True),
}
"""The poolings of `menu.CELL_POOLINGS`."""

TOKEN_POOLINGS: dict[str, Callable[[Float[Tensor, "rows d"]], Float[Tensor, " d"]]] = {
    "mean": lambda acts: acts.mean(0),
    "last": lambda acts: acts[-1],
    "max": lambda acts: acts.amax(0),
    "binary": lambda acts: (acts > 0).to(acts.dtype).mean(0),
}
"""The poolings of `menu.TOKEN_POOLINGS`."""


def cell_name(cell: CellKey) -> str:
    """How a single cell is called among the poolings."""
    return f"cell:{cell[0]}/{cell[1]}"
