"""How many latents fire, how often, and which never do. A latent fires where its act is not 0, exactly.

Each accumulator takes dense acts, or the values and indices of the non-zero ones (padded with
zero values). Thresholds such as |act| > 1e-3 change the numbers and are not used.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from thoughtlens.core import DataError, MismatchError
from thoughtlens.numerics.metrics.accumulator import Accumulator, PerKey

DENSE = 0.1
"""Density above which a latent counts as dense: it fires on nearly everything."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass
class L0(Accumulator):
    """Mean number of latents that fire on a row (act != 0), with the exact distribution."""

    name: ClassVar[str] = "l0"
    definition: ClassVar[str] = "mean over rows of the number of acts != 0"

    rows_by_l0: PerKey[int] = field(default_factory=PerKey, init=False)

    def update(self, acts: Float[Tensor, "batch d_sae"]) -> None:
        """Count a batch of dense acts."""
        l0 = (_finite(acts) != 0).sum(1).cpu().numpy()
        self.n += len(l0)
        for value, rows in zip(*np.unique(l0, return_counts=True), strict=True):
            self.rows_by_l0.add(int(value), int(rows))

    def update_sparse(self, values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"]) -> None:
        """Count a batch of sparse acts."""
        self.update(values)

    def compute(self) -> float:
        """Mean over all rows seen."""
        self.require_rows()
        return sum(value * rows for value, rows in self.rows_by_l0.items()) / self.n

    def quantile(self, q: float) -> int:
        """The smallest l0 that at least a share `q` of the rows does not exceed."""
        self.require_rows()
        values = sorted(self.rows_by_l0)
        seen = np.cumsum([self.rows_by_l0[value] for value in values])
        return values[int(np.searchsorted(seen, q * self.n))]

    def quantiles(self) -> dict[str, int]:
        """l0 at 5, 25, 50, 75 and 95 % of the rows, by `q05` ... `q95`."""
        return {f"q{round(q * 100):02d}": self.quantile(q) for q in QUANTILES}


@dataclass
class L1(Accumulator):
    """Mean over rows of sum_j |act_j| |W_dec_j|; in units of x.

    Without `decoder_norms` the decoder's rows are taken to have norm 1. Weighting by the norms makes
    the number independent of how scale is shared between encoder and decoder.
    """

    name: ClassVar[str] = "l1"
    definition: ClassVar[str] = "mean over rows of sum_j |act_j| |W_dec_j|"

    decoder_norms: Float[Tensor, " d_sae"] | None = None
    total: float = field(default=0.0, init=False)

    def update(self, acts: Float[Tensor, "batch d_sae"]) -> None:
        """Count a batch of dense acts."""
        size = _finite(acts).double().abs()
        if self.decoder_norms is not None:
            size = size * self.decoder_norms.to(size)
        self.n += len(size)
        self.total += size.sum().item()

    def update_sparse(self, values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"]) -> None:
        """Count a batch of sparse acts."""
        size = _finite(values).double().abs()
        if self.decoder_norms is not None:
            size = size * self.decoder_norms.to(size)[indices.long()]
        self.n += len(size)
        self.total += size.sum().item()

    def compute(self) -> float:
        """Mean over all rows seen."""
        self.require_rows()
        return self.total / self.n


@dataclass
class PerLatent(Accumulator):
    """Base of the accumulators that keep a number for each of `d_sae` latents."""

    d_sae: int

    def update(self, acts: Float[Tensor, "batch d_sae"]) -> None:
        """Count a batch of dense acts."""
        fires = _finite(acts) != 0
        if acts.shape[-1] != self.d_sae:
            raise MismatchError(f"Expected acts of {self.d_sae} latents, got {acts.shape[-1]}")
        row, latent = fires.nonzero(as_tuple=True)
        self.count(len(acts), row.cpu().numpy(), latent.cpu().numpy())

    def update_sparse(self, values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"]) -> None:
        """Count a batch of sparse acts."""
        row, slot = (_finite(values) != 0).nonzero(as_tuple=True)
        latent = indices[row, slot].long().cpu().numpy()
        if len(latent) and not (latent.min() >= 0 and latent.max() < self.d_sae):
            raise MismatchError(
                f"Expected latents 0 to {self.d_sae - 1}, got {latent.min()} to {latent.max()}"
            )
        self.count(len(values), row.cpu().numpy(), latent)

    @abstractmethod
    def count(self, n: int, row: Int64[np.ndarray, " fires"], latent: Int64[np.ndarray, " fires"]) -> None:
        """Count `n` rows; latent[i] fired on row[i] of them, rows ascending."""


@dataclass
class Density(PerLatent):
    """Share of rows on which each latent fires.

    A density of 0 over n rows says that the latent's true density is below about 3/n with 95 %
    confidence (`rule_of_three`), not that it never fires.
    """

    name: ClassVar[str] = "density"
    definition: ClassVar[str] = "rows with act != 0 / rows, for each latent"

    fires: Int64[np.ndarray, " d_sae"] = field(init=False)

    def __post_init__(self) -> None:
        self.fires = np.zeros(self.d_sae, dtype=np.int64)

    def count(self, n: int, row: Int64[np.ndarray, " fires"], latent: Int64[np.ndarray, " fires"]) -> None:
        """Count `n` rows."""
        self.n += n
        self.fires += np.bincount(latent, minlength=self.d_sae)

    def compute(self) -> Float64[np.ndarray, " d_sae"]:
        """Density of each latent."""
        self.require_rows()
        return self.fires / self.n

    def n_dense(self, above: float = DENSE) -> int:
        """Latents with a density above `above`."""
        return int((self.compute() > above).sum())

    def n_live(self) -> int:
        """Latents that fired at least once."""
        self.require_rows()
        return int((self.fires > 0).sum())

    def histogram(self, bins_per_decade: int = 4) -> list[dict[str, float | int]]:
        """Live latents by log10 density: `low` and `high` limit (log10), `n_latents`."""
        density = self.compute()
        decades = max(1, int(np.ceil(np.log10(self.n))))
        edges = np.linspace(-decades, 0, decades * bins_per_decade + 1)
        counts, _ = np.histogram(np.log10(density[density > 0]).clip(-decades, 0), edges)
        return [
            {"low": float(low), "high": float(high), "n_latents": int(count)}
            for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        ]

    def effective_latents(self) -> float:
        """exp(H), H the entropy in nats of the share of all firings that each latent has.

        d_sae if all fire equally often, 1 if a single one does all the firing.
        """
        self.require_rows()
        if not self.fires.any():
            raise DataError(
                f"The effective number of latents needs firings; none of {self.d_sae} fired on {self.n} rows"
            )
        p = self.fires[self.fires > 0] / self.fires.sum()
        return float(np.exp(-(p * np.log(p)).sum()))

    def rule_of_three(self) -> float:
        """3/n: a latent of this density or more would have fired with 95 % probability."""
        self.require_rows()
        return 3 / self.n


@dataclass
class Dead(PerLatent):
    """dead@N: the number of latents that do not fire on the first N rows seen.

    `window` is N; None means all rows seen. A latent of density p is missed with probability
    (1 - p)^N, so the number means nothing without N: libraries take N from 10 thousand to 10
    million. `idle` counts the rows since each latent last fired, which is what training goes by.
    """

    name: ClassVar[str] = "dead"
    definition: ClassVar[str] = "number of latents with act = 0 on all of the first N rows"

    window: int | None = None
    first: Int64[np.ndarray, " d_sae"] = field(init=False)
    last: Int64[np.ndarray, " d_sae"] = field(init=False)

    def __post_init__(self) -> None:
        self.first = np.full(self.d_sae, -1, dtype=np.int64)
        self.last = np.full(self.d_sae, -1, dtype=np.int64)

    def count(self, n: int, row: Int64[np.ndarray, " fires"], latent: Int64[np.ndarray, " fires"]) -> None:
        """Count `n` rows."""
        new = self.first[latent] < 0
        fresh, at = np.unique(latent[new], return_index=True)
        self.first[fresh] = self.n + row[new][at]
        np.maximum.at(self.last, latent, self.n + row)
        self.n += n

    def merge(self, other: Accumulator) -> Dead:
        """Append the rows that `other` has seen, and return self."""
        if not isinstance(other, Dead) or (other.d_sae, other.window) != (self.d_sae, self.window):
            raise MismatchError(
                f"Expected a Dead({self.d_sae}, window={self.window}) to merge with, got {other!r}"
            )
        fired = other.last >= 0
        new = fired & (self.first < 0)
        self.first[new] = self.n + other.first[new]
        self.last[fired] = self.n + other.last[fired]
        self.n += other.n
        return self

    def mask(self) -> Bool[np.ndarray, " d_sae"]:
        """True for each dead latent.

        Raises:
            DataError: fewer rows were seen than the window has.
        """
        self.require_rows()
        n = self.n if self.window is None else self.window
        if n > self.n:
            raise DataError(f"dead@{n} needs {n} rows, saw {self.n}; give more rows or a smaller window")
        return (self.first < 0) | (self.first >= n)

    def compute(self) -> int:
        """The number of dead latents."""
        return int(self.mask().sum())

    def idle(self) -> Int64[np.ndarray, " d_sae"]:
        """Rows since each latent last fired; all rows seen for one that never did."""
        self.require_rows()
        return np.where(self.last < 0, self.n, self.n - 1 - self.last)


def _finite(acts: Tensor) -> Tensor:
    if not isinstance(acts, Tensor) or acts.ndim != 2:
        got = f"shape {list(acts.shape)}" if isinstance(acts, Tensor) else f"a {type(acts).__name__}"
        raise DataError(f"Expected acts as a tensor [rows, latents], got {got}")
    if not torch.isfinite(acts).all():
        raise DataError("Expected finite acts, got NaN or Inf; check the SAE's weights and its input")
    return acts
