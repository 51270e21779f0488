"""Intervals of ratios over groups that may be few, or of which a few carry most."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int

from thoughtlens.numerics.stats.intervals import FEW, LEVEL, bootstrap_ratio

LEAST = 10
"""Groups that count, below which an interval is not to be trusted."""
SKEWED = 25
"""Times the squared skewness: as many groups are needed (Cochran 1977, Sampling Techniques, 2.15)."""


class RatioInterval(NamedTuple):
    """A ratio of sums with its 95 % interval."""

    estimate: float
    low: float
    high: float
    n_groups: int
    n_counting: float
    """3 (sum d^2)^2 / sum d^4 of the changes d that leaving out each group makes, at most n_groups: about
    n_groups where they are normal, about 3 where one group decides."""
    skewness: float
    """Of the same changes; large where values of one sign have a long tail, most of which no sample shows."""

    @property
    def doubt(self) -> str | None:
        """Why the interval may be too narrow; None: no reason."""
        if self.n_groups < FEW:
            return f"rests on {self.n_groups} groups, fewer than {FEW}"
        if self.n_counting < LEAST:
            return f"hangs on a few of its {self.n_groups} groups (about {self.n_counting:.0f} count)"
        if self.n_groups < SKEWED * self.skewness**2:
            return (
                f"hangs on a tail, of which {self.n_groups} groups show too little (skewness "
                f"{abs(self.skewness):.1f})"
            )
        return None


def ratio_over_groups(
    top: Float[np.ndarray, " rows"],
    bottom: Float[np.ndarray, " rows"],
    group: Int[np.ndarray, " rows"],
    *,
    seed: int = 0,
) -> RatioInterval | None:
    """sum(top) / sum(bottom) with a bootstrap of whole groups; None below two, or where it has no value.

    Where fewer than `FEW` groups count, it is widened to the jackknife's t interval, with as many degrees of
    freedom as groups count less one: resamples of few groups hold the truth too rarely (of 3 documents in
    76 % of runs instead of 95 %).
    """
    _, index = np.unique(group, return_inverse=True)
    n = int(index.max(initial=-1)) + 1
    a, b = (np.bincount(index, weights=x, minlength=n) for x in (top, bottom))
    if n < 2 or b.sum() <= 0:
        return None
    found = bootstrap_ratio(a, b, seed=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = (a.sum() - a) / (b.sum() - b) - found.estimate
    change = change[np.isfinite(change)]
    squares = np.square(change)
    counting = min(float(n), 3 * float(squares.sum()) ** 2 / max(float(np.square(squares).sum()), 1e-300))
    low, high = found.low, found.high
    if min(n, counting) < FEW:
        counting = max(counting, 1.0) if squares.any() else float(n)
        error = np.sqrt((n - 1) / n * squares.sum())
        half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, max(1.0, counting - 1)) * error)
        low, high = min(low, found.estimate - half), max(high, found.estimate + half)
    skewness = float(scipy.stats.skew(change)) if squares.any() else 0.0
    return RatioInterval(found.estimate, low, high, n, counting, skewness)
