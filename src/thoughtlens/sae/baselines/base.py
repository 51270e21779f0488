"""The interface that baselines share with SAEs, and the baselines that need no fitting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from thoughtlens.core import MismatchError
from thoughtlens.sae.kinds.base import AtCell, SparseActs
from thoughtlens.sae.kinds.normalization import Cell, cell_index


class Baseline(nn.Module, ABC):
    """Something to hold beside an SAE: raw activations in, acts out, and back.

    Where the baseline keeps something per (hook, thought) cell, `encode` and `decode` need each
    row's index into `cells`, which `cell_index` gives, as with an SAE; `at` does without.
    """

    def __init__(self, d_in: int, d_sae: int, cells: Sequence[Cell] | None = None) -> None:
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae
        self.cells = None if cells is None else [(hook, thought) for hook, thought in cells]

    @abstractmethod
    def encode(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """Acts of raw activations."""

    @abstractmethod
    def decode(
        self,
        acts: Float[Tensor, "*batch d_sae"],
        cell: Int[Tensor, "*batch"] | None = None,
        x: Tensor | None = None,
    ) -> Float[Tensor, "*batch d_in"]:
        """Raw reconstruction from acts; `x` is taken as SAEs take it, and not needed."""

    def forward(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_in"]:
        """x_hat."""
        return self.decode(self.encode(x, cell), cell)

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> SparseActs:
        """Acts that are not 0, padded to the row that has most."""
        acts = self.encode(x, cell)
        k = int((acts != 0).sum(-1).max()) if acts.numel() else 0
        indices = acts.abs().topk(k, dim=-1).indices
        return SparseActs(acts.gather(-1, indices), indices)

    def decode_sparse(
        self, acts: SparseActs, cell: Int[Tensor, "*batch"] | None = None, x: Tensor | None = None
    ) -> Float[Tensor, "*batch d_in"]:
        """`decode` of sparse acts."""
        return self.decode(acts.to_dense(self.d_sae), cell)

    def cell_index(
        self, cells: Sequence[Cell], cell: np.ndarray | Int[Tensor, " n"]
    ) -> Int[Tensor, " n"] | None:
        """Rows' cells as this baseline counts them; None where it needs none.

        Args:
            cells: The caller's (hook_name, thought_idx) pairs, such as `View.cells`.
            cell: Each row's index into them.

        Raises:
            MismatchError: a row of a cell that the baseline was not fitted on.
        """
        return None if self.cells is None else cell_index(self.cells, cells, cell)

    def at(self, hook_name: str, thought: int | None = None) -> AtCell:
        """This baseline on rows of one cell, as `SAE.at`."""
        return AtCell.of(self, hook_name, thought)


class Identity(Baseline):
    """x_hat = x: the raw neurons as latents."""

    def __init__(self, d_in: int) -> None:
        super().__init__(d_in, d_in)

    def encode(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """x itself."""
        return x

    def decode(
        self,
        acts: Float[Tensor, "*batch d_sae"],
        cell: Int[Tensor, "*batch"] | None = None,
        x: Tensor | None = None,
    ) -> Float[Tensor, "*batch d_in"]:
        """acts themselves."""
        return acts


class MeanPredictor(Baseline):
    """x_hat is the mean of the training rows, or of those of x's cell; there are no latents."""

    mean: Tensor

    def __init__(self, mean: Float[Tensor, "n_cells d_in"], cells: Sequence[Cell] | None = None) -> None:
        if len(mean) != len(cells or [None]):
            raise MismatchError(f"Expected one mean per cell, got {len(mean)} for {len(cells or [None])}")
        super().__init__(mean.shape[1], 0, cells)
        self.register_buffer("mean", mean)

    def encode(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """Nothing: [*batch, 0]."""
        return x.new_zeros(*x.shape[:-1], 0)

    def decode(
        self,
        acts: Float[Tensor, "*batch d_sae"],
        cell: Int[Tensor, "*batch"] | None = None,
        x: Tensor | None = None,
    ) -> Float[Tensor, "*batch d_in"]:
        """The mean of each row's cell."""
        return at_cell(self.mean, self.cells, cell).expand(*acts.shape[:-1], self.d_in)


def at_cell(table: Tensor, cells: Sequence[Cell] | None, cell: Tensor | None) -> Tensor:
    """The table's line of each row's cell; its only line where there are no cells."""
    if cells is None:
        return table[0]
    if cell is None and len(cells) == 1:
        return table[0]
    if cell is None:
        raise MismatchError(
            f"This baseline knows {len(cells)} (hook, thought) cells: expected `cell`, indices into them, "
            f"got None. `at` and `cell_index` make them"
        )
    return table[cell.to(table.device)]
