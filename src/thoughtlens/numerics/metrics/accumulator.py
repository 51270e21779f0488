"""What every metric shares: rows come in batches, sums stay in float64, two halves can be merged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from thoughtlens.core import DataError, MismatchError

ROUNDING = 1e-28
"""A sum of squares this small beside the data's own is rounding, not variance."""

T = TypeVar("T")
M = TypeVar("M", bound="Accumulator")


@dataclass
class Accumulator(ABC):
    """A metric of a stream: `update` with any batches, `compute` at the end, `merge` two streams.

    The result does not depend on how the rows are cut into batches. A subclass keeps its state in
    fields with `init=False`, each of which can be added; other fields are settings.
    """

    name: ClassVar[str]
    """The metric's name in `result.json`."""
    definition: ClassVar[str]
    """The formula on one line, written beside the number."""

    n: int = field(default=0, init=False)
    """Rows seen."""

    @abstractmethod
    def compute(self) -> Any:
        """The metric over all rows seen.

        Raises:
            DataError: no rows were seen, or the metric has no meaning on these.
        """

    def merge(self: M, other: Accumulator) -> M:
        """Add the rows that `other` has seen, and return self.

        Raises:
            MismatchError: `other` is another metric, or has other settings.
        """
        if type(other) is not type(self):
            raise MismatchError(
                f"Expected a {type(self).__name__} to merge with, got a {type(other).__name__}"
            )
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if not f.init:
                setattr(self, f.name, mine + theirs)
            elif not _same(mine, theirs):
                raise MismatchError(
                    f"Cannot merge two {type(self).__name__} with another {f.name}: {mine!r} and {theirs!r}"
                )
        return self

    def require_rows(self) -> None:
        """Raise DataError if no row was seen."""
        if self.n == 0:
            raise DataError(
                f"{type(self).__name__} saw no rows; call update(...) with at least one before compute()"
            )


@dataclass
class Moments:
    """Rows, their mean, and the sum of squared distances to it (over rows and dimensions).

    Two of them add up without cancellation, however far the mean is from zero (Chan, Golub and
    LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances").
    """

    n: int = 0
    mean: Tensor | None = None
    m2: float = 0.0

    @classmethod
    def of(cls, x: Float[Tensor, "batch d"]) -> Moments:
        """The moments of a batch, computed in float64."""
        if len(x) == 0:
            return cls()
        x = x.double()
        mean = x.mean(0)
        return cls(len(x), mean, (x - mean).square().sum().item())

    def __add__(self, other: Moments) -> Moments:
        if self.mean is None or other.mean is None:
            return other if self.mean is None else self
        n = self.n + other.n
        gap = other.mean.to(self.mean.device) - self.mean
        between = gap.square().sum().item() * self.n * other.n / n
        return Moments(n, self.mean + gap * (other.n / n), self.m2 + other.m2 + between)

    def constant(self) -> bool:
        """True if the rows do not differ beyond float64 rounding."""
        if self.mean is None:
            return True
        return self.m2 <= ROUNDING * (self.m2 + self.n * self.mean.square().sum().item())


class PerKey(dict[int, T]):
    """Values by key (a cell, a bin, a problem); adding two adds the values of equal keys."""

    def add(self, key: int, value: T) -> None:
        """Add to what `key` holds."""
        self[key] = self[key] + value if key in self else value  # type: ignore[operator]

    def __add__(self, other: PerKey[T]) -> PerKey[T]:
        total = PerKey(self)
        for key, value in other.items():
            total.add(key, value)
        return total


def rows_of(x: Tensor, what: str = "activations") -> Float[Tensor, "batch d"]:
    """`x` as float64 rows, leading dimensions flattened.

    Raises:
        DataError: no dimension to flatten, or NaN or Inf among the values.
    """
    if x.ndim < 2:
        raise DataError(f"Expected {what} of shape [rows, d], got {list(x.shape)}; add a batch dimension")
    rows = x.detach().reshape(-1, x.shape[-1]).double()
    if not (torch.isfinite(rows.sum()) or torch.isfinite(rows).all()):  # the sum alone is much faster
        bad = int((~torch.isfinite(rows).all(1)).nonzero()[0])
        raise DataError(
            f"Expected finite {what}, got NaN or Inf in row {bad} of the batch; drop or repair such rows"
        )
    return rows


def paired(x: Tensor, x_hat: Tensor) -> tuple[Float[Tensor, "batch d"], Float[Tensor, "batch d"]]:
    """Inputs and reconstructions as float64 rows.

    Raises:
        DataError: shapes differ (nothing is broadcast), or a value is not finite.
    """
    for value, what in ((x, "x"), (x_hat, "x_hat")):
        if not isinstance(value, Tensor):
            raise DataError(f"Expected {what} as a tensor [rows, d], got a {type(value).__name__}")
    if x.shape != x_hat.shape:
        raise DataError(f"Expected x and x_hat of one shape, got {list(x.shape)} and {list(x_hat.shape)}")
    return rows_of(x, "x"), rows_of(x_hat.to(x.device), "x_hat")


@dataclass
class PairMetric(Accumulator):
    """Base of the metrics that need only `x` and `x_hat`."""

    def update(self, x: Float[Tensor, "*batch d"], x_hat: Float[Tensor, "*batch d"]) -> None:
        """Count a batch.

        Raises:
            DataError: shapes differ (nothing is broadcast), or a value is not finite.
        """
        self.add(*paired(x, x_hat))

    @abstractmethod
    def add(self, x: Float64[Tensor, "batch d"], x_hat: Float64[Tensor, "batch d"]) -> None:
        """Count rows that are checked and float64 already."""


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and not isinstance(a, Tensor) and a == b
