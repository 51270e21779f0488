"""The best linear map of a given rank from one hook to another, fitted in a stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from thoughtlens.core import ConfigError, DataError
from thoughtlens.sae.baselines.base import Baseline, at_cell
from thoughtlens.sae.kinds.normalization import Cell

CUTOFF = 1e-10
"""Directions of x whose variance is below this share of the largest are left out."""


class ReducedRank(Baseline):
    """Reduced-rank regression (Izenman 1975): acts = (x - mean_in) @ W_enc, y_hat = acts @ W_dec + mean_out.

    Dense: every row uses all `rank` numbers. With `cells`, both sides are centred on their cell's mean.
    It is to a transcoder what principal components are to an SAE.
    """

    mean_in: Tensor
    mean_out: Tensor
    W_enc: Tensor
    W_dec: Tensor

    def __init__(
        self,
        W_enc: Float[Tensor, "d_in rank"],
        W_dec: Float[Tensor, "rank d_out"],
        mean_in: Float[Tensor, "n_cells d_in"],
        mean_out: Float[Tensor, "n_cells d_out"],
        cells: Sequence[Cell] | None = None,
    ) -> None:
        super().__init__(W_enc.shape[0], W_enc.shape[1], cells)
        for name, value in (("W_enc", W_enc), ("W_dec", W_dec), ("mean_in", mean_in), ("mean_out", mean_out)):
            self.register_buffer(name, value)

    def encode(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch rank"]:
        """The numbers that pass."""
        return (x - at_cell(self.mean_in, self.cells, cell)) @ self.W_enc

    def decode(
        self,
        acts: Float[Tensor, "*batch rank"],
        cell: Int[Tensor, "*batch"] | None = None,
        x: Tensor | None = None,
    ) -> Float[Tensor, "*batch d_out"]:
        """y_hat."""
        return acts @ self.W_dec + at_cell(self.mean_out, self.cells, cell)

    def first(self, rank: int) -> ReducedRank:
        """The best map of a lower rank."""
        return ReducedRank(
            self.W_enc[:, :rank], self.W_dec[:rank], self.mean_in, self.mean_out, self.cells
        )  # fmt: skip


class CrossCovariance:
    """Sums of products of centred x and y, in float64; `map` solves for the regression."""

    def __init__(self, d_in: int, d_out: int) -> None:
        self.n = 0
        self.xx = torch.zeros(d_in, d_in, dtype=torch.float64)
        self.xy = torch.zeros(d_in, d_out, dtype=torch.float64)

    def update(self, x: Float64[Tensor, "n d_in"], y: Float64[Tensor, "n d_out"]) -> None:
        """Count rows that are centred already."""
        self.n += len(x)
        self.xx += x.T @ x
        self.xy += x.T @ y

    def map(
        self,
        rank: int,
        mean_in: Float[Tensor, "n_cells d_in"],
        mean_out: Float[Tensor, "n_cells d_out"],
        cells: Sequence[Cell] | None = None,
    ) -> ReducedRank:
        """The map of at most this rank with the least squared error on the rows seen.

        Raises:
            ConfigError: a rank below 1.
            DataError: no rows, or x does not vary.
        """
        if rank < 1:
            raise ConfigError(f"Expected a rank of at least 1, got {rank}")
        values, axes = torch.linalg.eigh(self.xx)
        if self.n == 0 or not values[-1] > 0:
            raise DataError(f"A linear map needs rows of x that vary, got {self.n} rows without variance")
        inverse = torch.where(values > CUTOFF * values[-1], 1 / values, 0)
        full = axes @ (inverse[:, None] * (axes.T @ self.xy))
        _, directions = torch.linalg.eigh(full.T @ self.xx @ full)
        kept = directions.flip(1)[:, : min(rank, *self.xy.shape)]
        return ReducedRank(
            (full @ kept).float(), kept.T.float().contiguous(), mean_in.float(), mean_out.float(), cells
        )
