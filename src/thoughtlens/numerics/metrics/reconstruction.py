"""How well x_hat stands for x: every definition in circulation, each under its own name.

`x` and `x_hat` are rows of activations, any leading dimensions, any float dtype; sums are float64.
The formulas with a worked example, and who calls what by which name, are in `docs/metrics.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from thoughtlens.core import DataError
from thoughtlens.numerics.metrics.accumulator import Accumulator, Moments, PairMetric, PerKey, paired, rows_of
from thoughtlens.numerics.metrics.rowwise import (
    MSE,
    CosineSimilarity,
    L2Ratio,
    LegacyExplainedVariance,
    MSEMean,
    OpenAINormalizedMSE,
)


@dataclass
class FVU(PairMetric):
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean x|^2.

    Sums and mean run over all rows seen, never per batch. Unitless: 0 is perfect, 1 is as good as
    the mean, above 1 is worse than the mean.
    """

    name: ClassVar[str] = "fvu"
    definition: ClassVar[str] = "sum |x - x_hat|^2 / sum |x - mean x|^2, mean per dimension over all rows"

    moments: Moments = field(default_factory=Moments, init=False)
    error: float = field(default=0.0, init=False)

    def add(self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]) -> None:
        """Count rows that are checked and float64 already."""
        self.n += len(x)
        self.moments = self.moments + Moments.of(x)
        self.error += (x - x_hat).square().sum().item()

    def compute(self) -> float:
        """The fraction over all rows seen. DataError if they do not vary."""
        self.require_rows()
        require_variance(self, self.moments)
        return self.error / self.moments.m2


@dataclass
class ExplainedVariance(FVU):
    """1 - FVU: R^2 against the mean of all rows seen. Unitless: 1 is perfect, 0 is the mean."""

    name: ClassVar[str] = "explained_variance"
    definition: ClassVar[str] = "1 - sum |x - x_hat|^2 / sum |x - mean x|^2, mean per dimension over all rows"

    def compute(self) -> float:
        """1 - FVU over all rows seen."""
        return 1 - super().compute()


@dataclass
class ExplainedVarianceWithin(Accumulator):
    """1 - sum |x - x_hat|^2 / sum |x - mean of x's cell|^2, a cell being one (hook, thought).

    Where several hooks or thoughts are pooled, the distances between their means count as variance
    in `ExplainedVariance`, and predicting the cell's mean already scores high. Here it scores 0.
    """

    name: ClassVar[str] = "explained_variance_within"
    definition: ClassVar[str] = "1 - sum |x - x_hat|^2 / sum |x - mean of its (hook, thought) cell|^2"

    moments: PerKey[Moments] = field(default_factory=PerKey, init=False)
    error: PerKey[float] = field(default_factory=PerKey, init=False)

    def update(
        self, x: Float[Tensor, "batch d"], x_hat: Float[Tensor, "batch d"], cell: Int[Tensor, " batch"]
    ) -> None:
        """Count a batch; `cell` numbers the cell of each row."""
        x, x_hat = paired(x, x_hat)
        self.n += len(x)
        error = (x - x_hat).square().sum(1)
        for key in cell.unique().tolist():
            inside = (cell == key).to(x.device)
            self.moments.add(key, Moments.of(x[inside]))
            self.error.add(key, error[inside].sum().item())

    def compute(self) -> float:
        """The share explained within cells, over all rows seen."""
        self.require_rows()
        if all(m.constant() for m in self.moments.values()):
            raise DataError(f"ExplainedVarianceWithin needs cells that vary; saw {self.n} rows, no cell does")
        return 1 - sum(self.error.values()) / sum(m.m2 for m in self.moments.values())

    def per_cell(self) -> dict[int, float | None]:
        """Explained variance of each cell; None for a cell whose rows do not vary."""
        return {
            key: None if m.constant() else 1 - self.error[key] / m.m2
            for key, m in sorted(self.moments.items())
        }


@dataclass
class ExplainedVarianceByNorm(Accumulator):
    """Explained variance of rows in bins of |x|: whether a few massive rows make the number.

    1 - sum |x - x_hat|^2 / sum |x - mean x|^2 with sums and mean over the rows of the bin: where a few
    rows are massive, the mean of all is far from most. `edges` are the inner limits, ascending: 9
    edges make 10 bins; see `norm_deciles`.
    """

    name: ClassVar[str] = "explained_variance_by_norm"
    definition: ClassVar[str] = "explained_variance of the rows of each bin of |x|, centred on the bin's mean"

    edges: Float[Tensor, " n_edges"]
    moments: PerKey[Moments] = field(default_factory=PerKey, init=False)
    error: PerKey[float] = field(default_factory=PerKey, init=False)

    def update(self, x: Float[Tensor, "batch d"], x_hat: Float[Tensor, "batch d"]) -> None:
        """Count a batch."""
        x, x_hat = paired(x, x_hat)
        self.n += len(x)
        error = (x - x_hat).square().sum(1)
        bins = torch.bucketize(x.norm(dim=1), self.edges.to(x))
        for key in bins.unique().tolist():
            self.moments.add(key, Moments.of(x[bins == key]))
            self.error.add(key, error[bins == key].sum().item())

    def compute(self) -> list[dict[str, float | int | None]]:
        """One entry a bin: `low` and `high` limit of |x| (None: open), `n`, `explained_variance`."""
        self.require_rows()
        limits = [None, *self.edges.tolist(), None]
        table = []
        for key in range(len(limits) - 1):
            m = self.moments.get(key, Moments())
            ev = None if m.constant() else 1 - self.error[key] / m.m2
            table.append({"low": limits[key], "high": limits[key + 1], "n": m.n, "explained_variance": ev})
        return table


def norm_deciles(x: Float[Tensor, "batch d"]) -> Float[Tensor, 9]:
    """The nine inner deciles of |x| over a sample of rows, for `ExplainedVarianceByNorm`."""
    norms = rows_of(x).norm(dim=1)
    if len(norms) == 0:
        raise DataError("norm_deciles needs at least one row, got none")
    return norms.quantile(torch.linspace(0.1, 0.9, 9, dtype=norms.dtype, device=norms.device))


@dataclass
class ResidualVarianceEV(PairMetric):
    """1 - sum_d Var(x - x_hat) / sum_d Var(x): blind to a constant offset of x_hat.

    `frac_variance_explained` of dictionary_learning, which averages it over batches; here over all
    rows. An x_hat that is off by the same vector everywhere scores 1.
    """

    name: ClassVar[str] = "residual_variance_ev"
    definition: ClassVar[str] = "1 - sum_d Var(x - x_hat) / sum_d Var(x); blind to a constant offset"

    moments: Moments = field(default_factory=Moments, init=False)
    residual: Moments = field(default_factory=Moments, init=False)

    def add(self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]) -> None:
        """Count rows that are checked and float64 already."""
        self.n += len(x)
        self.moments = self.moments + Moments.of(x)
        self.residual = self.residual + Moments.of(x - x_hat)

    def compute(self) -> float:
        """The share over all rows seen."""
        self.require_rows()
        require_variance(self, self.moments)
        return 1 - self.residual.m2 / self.moments.m2


@dataclass
class ScalarR2(PairMetric):
    """1 - mean (x - x_hat)^2 / mean (x - m)^2, m one scalar: the mean of all entries.

    `r2_score` of overcomplete. Dimensions with different means count as variance.
    """

    name: ClassVar[str] = "scalar_r2"
    definition: ClassVar[str] = "1 - sum (x - x_hat)^2 / sum (x - mean of all entries)^2"

    moments: Moments = field(default_factory=Moments, init=False)
    error: float = field(default=0.0, init=False)

    def add(self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]) -> None:
        """Count rows that are checked and float64 already."""
        self.n += len(x)
        self.moments = self.moments + Moments.of(x.reshape(-1, 1))
        self.error += (x - x_hat).square().sum().item()

    def compute(self) -> float:
        """The share over all rows seen."""
        self.require_rows()
        require_variance(self, self.moments)
        return 1 - self.error / self.moments.m2


@dataclass
class UncentredEV(PairMetric):
    """1 - sum |x - x_hat|^2 / sum |x|^2: the mean is counted as something explained."""

    name: ClassVar[str] = "uncentred_ev"
    definition: ClassVar[str] = "1 - sum |x - x_hat|^2 / sum |x|^2"

    power: float = field(default=0.0, init=False)
    error: float = field(default=0.0, init=False)

    def add(self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]) -> None:
        """Count rows that are checked and float64 already."""
        self.n += len(x)
        self.power += x.square().sum().item()
        self.error += (x - x_hat).square().sum().item()

    def compute(self) -> float:
        """The share over all rows seen."""
        self.require_rows()
        if self.power == 0:
            raise DataError(
                f"UncentredEV needs activations that are not all zero; saw {self.n} rows of zeros"
            )
        return 1 - self.error / self.power


@dataclass
class RelativeReconstructionBias(PairMetric):
    """gamma = E |x_hat|^2 / E [x . x_hat]: below 1 the reconstruction shrinks x.

    Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders",
    arXiv:2404.16014, eq. 10. Uncentred, unitless; x_hat = a x gives a.
    """

    name: ClassVar[str] = "relative_reconstruction_bias"
    definition: ClassVar[str] = "sum |x_hat|^2 / sum x.x_hat; below 1: shrinkage"

    power: float = field(default=0.0, init=False)
    dot: float = field(default=0.0, init=False)

    def add(self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]) -> None:
        """Count rows that are checked and float64 already."""
        self.n += len(x)
        self.power += x_hat.square().sum().item()
        self.dot += (x * x_hat).sum().item()

    def compute(self) -> float:
        """gamma over all rows seen."""
        self.require_rows()
        if self.dot == 0:
            raise DataError(
                f"RelativeReconstructionBias has no value: x_hat is zero or orthogonal on all {self.n} rows"
            )
        return self.power / self.dot


DEFINITIONS = (
    FVU, ExplainedVariance, LegacyExplainedVariance, ResidualVarianceEV, UncentredEV, OpenAINormalizedMSE,
    ScalarR2, MSE, MSEMean, CosineSimilarity, L2Ratio, RelativeReconstructionBias,
)  # fmt: skip


@dataclass
class Reconstruction:
    """Every definition that needs only `x` and `x_hat`, fed together."""

    parts: dict[str, PairMetric] = field(default_factory=lambda: {cls.name: cls() for cls in DEFINITIONS})

    def update(self, x: Float[Tensor, "*batch d"], x_hat: Float[Tensor, "*batch d"]) -> None:
        """Count a batch in each."""
        x, x_hat = paired(x, x_hat)
        for part in self.parts.values():
            part.add(x, x_hat)

    def merge(self, other: Reconstruction) -> Reconstruction:
        """Add the rows that `other` has seen, and return self."""
        for name, part in self.parts.items():
            part.merge(other.parts[name])
        return self

    @property
    def n(self) -> int:
        """Rows seen."""
        return self.parts[FVU.name].n

    def compute(self) -> dict[str, float | None]:
        """Value by name; None where a definition has no value on these rows."""
        return {name: defined(part) for name, part in self.parts.items()}


def defined(part: Accumulator) -> float | None:
    """`part.compute()`, or None where it has no value."""
    try:
        return part.compute()
    except DataError:
        return None


def require_variance(part: Accumulator, moments: Moments) -> None:
    """Raise DataError if the rows do not vary."""
    if moments.constant():
        who = type(part).__name__
        raise DataError(f"{who} needs activations that vary; saw {part.n} rows, all the same")
