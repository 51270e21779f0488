"""Principal components, fitted in a stream: the best linear reconstruction with k numbers per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from thoughtlens.core import ConfigError, DataError, MismatchError
from thoughtlens.numerics import rows_of
from thoughtlens.sae.baselines.base import Baseline, at_cell
from thoughtlens.sae.kinds.base import SparseActs
from thoughtlens.sae.kinds.normalization import Cell


class PCA(Baseline):
    """The first k principal components: acts = (x - mean) @ W_enc, x_hat = acts @ W_dec + mean.

    Dense: every row uses all k. With `cells`, rows are centred on their cell's mean.
    """

    mean: Tensor
    W_enc: Tensor
    W_dec: Tensor

    def __init__(
        self,
        components: Float[Tensor, "k d_in"],
        mean: Float[Tensor, "n_cells d_in"],
        cells: Sequence[Cell] | None = None,
    ) -> None:
        if len(mean) != len(cells or [None]):
            raise MismatchError(f"Expected one mean per cell, got {len(mean)} for {len(cells or [None])}")
        super().__init__(components.shape[1], components.shape[0], cells)
        self.register_buffer("mean", mean)
        self.register_buffer("W_enc", components.T.contiguous())
        self.register_buffer("W_dec", components)

    @classmethod
    def fit(cls, x: Float[Tensor, "n d_in"], k: int) -> PCA:
        """Components of rows in memory; for a stream, `Covariance`."""
        covariance = Covariance(x.shape[1])
        covariance.update(x)
        return covariance.pca(k)

    def first(self, k: int) -> PCA:
        """The same with the first k components only."""
        return PCA(self.W_dec[:k], self.mean, self.cells)

    def encode(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """Coordinates on the components."""
        return (x.to(self.mean.dtype) - at_cell(self.mean, self.cells, cell)) @ self.W_enc

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> SparseActs:
        """All k coordinates of each row."""
        acts = self.encode(x, cell)
        return SparseActs(acts, torch.arange(self.d_sae, device=acts.device).expand_as(acts))

    def decode(
        self,
        acts: Float[Tensor, "*batch d_sae"],
        cell: Int[Tensor, "*batch"] | None = None,
        x: Tensor | None = None,
    ) -> Float[Tensor, "*batch d_in"]:
        """Back from coordinates."""
        return acts @ self.W_dec + at_cell(self.mean, self.cells, cell)


@dataclass
class Covariance:
    """Mean and scatter matrix of a stream of rows, in float64, for `pca`.

    Batches are merged without cancellation (Chan, Golub and LeVeque 1979). Memory: d_in^2 numbers.
    """

    d_in: int

    def __post_init__(self) -> None:
        self.n = 0
        self.mean: Float64[Tensor, " d_in"] = torch.zeros(self.d_in, dtype=torch.float64)
        self.scatter: Float64[Tensor, "d_in d_in"] = torch.zeros(self.d_in, self.d_in, dtype=torch.float64)

    def update(self, x: Float[Tensor, "batch d_in"]) -> None:
        """Count a batch."""
        if len(x) == 0:
            return
        x = rows_of(x)
        mean, n = x.mean(0), self.n + len(x)
        centred, gap = x - mean, mean.to(self.mean) - self.mean
        self.scatter += (centred.T @ centred).to(self.scatter)
        self.scatter.addr_(gap, gap, alpha=self.n * len(x) / n)
        self.mean += gap * (len(x) / n)
        self.n = n

    def eigen(self) -> tuple[Float64[Tensor, " d_in"], Float64[Tensor, "d_in d_in"]]:
        """Variances, largest first, and the components as rows; each one's largest entry is positive."""
        if self.n < 2:
            raise DataError(f"Principal components need at least 2 rows, got {self.n}")
        values, vectors = torch.linalg.eigh(self.scatter / self.n)
        components = vectors.T.flip(0)
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        return values.flip(0).clamp_min(0), components * largest.sign()

    def pca(
        self,
        k: int,
        *,
        mean: Float[Tensor, "n_cells d_in"] | None = None,
        cells: Sequence[Cell] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> PCA:
        """The first k components; `mean` and `cells` where the rows were centred by cell before.

        Raises:
            ConfigError: k outside 1..d_in.
        """
        if not 1 <= k <= self.d_in:
            raise ConfigError(f"Expected 1 to d_in = {self.d_in} components, got k = {k}")
        components = self.eigen()[1][:k]
        mean = self.mean[None] if mean is None else mean
        return PCA(components.to(dtype), mean.to(dtype), cells)
