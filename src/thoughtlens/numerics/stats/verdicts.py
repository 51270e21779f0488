"""What a paired interval allows to say of two arms, with all it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped
from scipy import stats

from thoughtlens.core import ConfigError, DataError, Record
from thoughtlens.numerics.stats.intervals import (
    LEVEL,
    Interval,
    cluster_index,
    paired_difference,
    paired_proportions,
)
from thoughtlens.numerics.stats.significance import (
    mcnemar_exact,
    mcnemar_power,
    minimal_detectable_difference,
)

DELTA = 0.03
"""Differences below this (three points of accuracy) count as equivalent, unless said otherwise."""


def verdict(low: float, high: float, *, delta: float = DELTA) -> str:
    """What a paired interval of (a - b) allows to say of a, larger scores being better.

    - `equivalent`: the whole interval lies within -delta and delta;
    - `better` / `worse`: the interval does not contain 0;
    - `inconclusive`: anything else. Never "better" or "worse" with 0 inside the interval.
    """
    if not low <= high:
        raise DataError(f"Expected an interval with low <= high, got {low} and {high}")
    if delta < 0:
        raise ConfigError(f"Expected delta >= 0, got {delta}")
    if -delta <= low and high <= delta:
        return "equivalent"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Comparison(Record):
    """Two arms on the same rows: the verdict on the first, and all it rests on."""

    verdict: str
    difference: Interval
    delta: float
    p: float
    test: str
    b: int
    """Rows (or clusters) where the first arm is ahead."""
    c: int
    """Rows (or clusters) where the second is."""
    n_rows: int
    n_clusters: int
    minimal_detectable_difference: float | None
    """The smallest true difference that would be found with probability 0.8; None: none would."""
    power: float
    """Probability of finding a true difference of `delta`, at the discordance or spread observed."""


def compare(
    correct_a: Shaped[np.ndarray, " rows"],
    correct_b: Shaped[np.ndarray, " rows"],
    clusters: Sequence | Shaped[np.ndarray, " rows"] | None = None,
    *,
    delta: float = DELTA,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compare two classifiers by which of the same rows each gets right.

    Without clusters (or one row in each): paired Wald interval and exact McNemar. With clusters: the
    cluster bootstrap, and exact McNemar's sign test over clusters (ahead, behind, ties left out).

    Raises:
        DataError: arms of different rows, none at all, or values that are neither right (1) nor wrong (0).
    """
    a, b = (np.asarray(correct) for correct in (correct_a, correct_b))
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise DataError("Expected 1 for right and 0 for wrong, got other values; numbers: compare_values")
    a, b = a.astype(bool), b.astype(bool)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise DataError(f"Expected two arms scored on the same rows, got shapes {a.shape} and {b.shape}")
    index, n = cluster_index(np.arange(len(a)) if clusters is None else clusters)
    ahead = np.bincount(index, weights=a.astype(float) - b, minlength=n)
    n_ahead, n_behind = int((ahead > 0).sum()), int((ahead < 0).sum())
    if n == len(a) or n_ahead + n_behind == 0:
        difference = paired_proportions(n_ahead, n_behind, n, level=level)
    else:
        difference = paired_difference(a.astype(float), b.astype(float), index, level=level, seed=seed)
    discordance = (n_ahead + n_behind) / n
    return Comparison(
        verdict=verdict(difference.low, difference.high, delta=delta),
        difference=difference,
        delta=delta,
        p=mcnemar_exact(n_ahead, n_behind),
        test="exact McNemar" if n == len(a) else "exact sign test over clusters",
        b=n_ahead,
        c=n_behind,
        n_rows=len(a),
        n_clusters=n,
        minimal_detectable_difference=minimal_detectable_difference(n, discordance),
        power=mcnemar_power(n, min(delta, discordance), discordance),
    )


def compare_values(
    a: Shaped[np.ndarray, " rows"],
    b: Shaped[np.ndarray, " rows"],
    clusters: Sequence | Shaped[np.ndarray, " rows"] | None = None,
    *,
    delta: float = DELTA,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compare two arms by a number each gets on the same rows, larger being better, as `compare`.

    The cluster bootstrap of the mean difference, and a paired t-test over the clusters' sums.
    """
    difference = paired_difference(a, b, clusters, level=level, seed=seed)
    index, n = cluster_index(np.arange(len(a)) if clusters is None else clusters)
    sums = np.bincount(index, weights=np.asarray(a, float) - np.asarray(b, float), minlength=n)
    spread = float(sums.std(ddof=1)) * np.sqrt(n) / len(a)
    t = difference.estimate / spread if spread > 0 else 0.0
    quantile = stats.t.ppf((1 + level) / 2, n - 1)
    power = float(stats.t.sf(quantile - delta / spread, n - 1)) if spread > 0 else 1.0
    return Comparison(
        verdict=verdict(difference.low, difference.high, delta=delta),
        difference=difference,
        delta=delta,
        p=float(2 * stats.t.sf(abs(t), n - 1)) if spread > 0 else float(difference.estimate == 0),
        test="paired t over clusters",
        b=int((sums > 0).sum()),
        c=int((sums < 0).sum()),
        n_rows=len(a),
        n_clusters=n,
        minimal_detectable_difference=float((quantile + stats.t.ppf(0.8, n - 1)) * spread),
        power=power,
    )
