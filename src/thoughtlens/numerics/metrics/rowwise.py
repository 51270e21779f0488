"""Reconstruction metrics that are a mean over rows of a number each row has by itself."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from thoughtlens.numerics.metrics.accumulator import PairMetric


@dataclass
class RowMean(PairMetric):
    """Mean over rows of a number that each row has by itself. Rows without one do not count in n."""

    total: float = field(default=0.0, init=False)

    def add(self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]) -> None:
        """Count rows that are checked and float64 already."""
        values = self.values(x, x_hat)
        self.n += len(values)
        self.total += values.sum().item()

    @abstractmethod
    def values(
        self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]
    ) -> Float64[Tensor, " rows"]:
        """One value per row, for the rows that have one."""

    def compute(self) -> float:
        """The mean over all rows counted."""
        self.require_rows()
        return self.total / self.n


@dataclass
class MSE(RowMean):
    """Squared error summed over dimensions, averaged over rows; in units of x squared."""

    name: ClassVar[str] = "mse"
    definition: ClassVar[str] = "mean over rows of |x - x_hat|^2 (summed over dimensions)"

    def values(
        self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]
    ) -> Float64[Tensor, " rows"]:
        """|x - x_hat|^2 of each row."""
        return (x - x_hat).square().sum(1)


@dataclass
class MSEMean(RowMean):
    """Squared error averaged over rows and dimensions (`nn.functional.mse_loss`); units of x squared."""

    name: ClassVar[str] = "mse_mean"
    definition: ClassVar[str] = "mean over rows and dimensions of (x - x_hat)^2"

    def values(
        self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]
    ) -> Float64[Tensor, " rows"]:
        """Mean squared error of each row."""
        return (x - x_hat).square().mean(1)


@dataclass
class OpenAINormalizedMSE(RowMean):
    """Mean over rows of |x - x_hat|^2 / |x|^2, uncentred: 0 is perfect, 1 is x_hat = 0.

    `normalized_mean_squared_error` of openai/sparse_autoencoder. Rows of zeros have none.
    """

    name: ClassVar[str] = "openai_normalized_mse"
    definition: ClassVar[str] = "mean over rows of |x - x_hat|^2 / |x|^2; rows of zeros left out"

    def values(
        self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]
    ) -> Float64[Tensor, " rows"]:
        """The ratio of each row that is not zero."""
        power = x.square().sum(1)
        return ((x - x_hat).square().sum(1) / power)[power > 0]


@dataclass
class LegacyExplainedVariance(RowMean):
    """Mean over rows of 1 - |x - x_hat|^2 / |x - mean of the batch|^2: a mean of ratios.

    `explained_variance_legacy` of SAELens. **Depends on the batches**, as it does there; rows equal
    to their batch's mean have none. For comparison with numbers made that way only.
    """

    name: ClassVar[str] = "legacy_explained_variance"
    definition: ClassVar[str] = (
        "mean over rows of 1 - |x - x_hat|^2 / |x - mean of its batch|^2 (depends on the batches)"
    )

    def values(
        self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]
    ) -> Float64[Tensor, " rows"]:
        """The share of each row that is not its batch's mean."""
        spread = (x - x.mean(0)).square().sum(1)
        return (1 - (x - x_hat).square().sum(1) / spread)[spread > 0]


@dataclass
class CosineSimilarity(RowMean):
    """Mean over rows of cos(x, x_hat); a row where x or x_hat is zero counts 0."""

    name: ClassVar[str] = "cosine_similarity"
    definition: ClassVar[str] = "mean over rows of x.x_hat / (|x| |x_hat|); 0 where either is zero"

    def values(
        self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]
    ) -> Float64[Tensor, " rows"]:
        """The cosine of each row."""
        norms = x.norm(dim=1) * x_hat.norm(dim=1)
        return torch.where(norms > 0, (x * x_hat).sum(1) / norms, norms.new_zeros(()))


@dataclass
class L2Ratio(RowMean):
    """Mean over rows of |x_hat| / |x|: below 1, reconstructions are shorter. Rows of zeros have none."""

    name: ClassVar[str] = "l2_ratio"
    definition: ClassVar[str] = "mean over rows of |x_hat| / |x|; rows of zeros left out"

    def values(
        self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]
    ) -> Float64[Tensor, " rows"]:
        """The ratio of each row that is not zero."""
        norms = x.norm(dim=1)
        return (x_hat.norm(dim=1) / norms)[norms > 0]
