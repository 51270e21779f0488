"""What a paired interval and its test allow to say of two arms, with all it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Shaped

from thoughtlens.core import ConfigError, DataError, Record
from thoughtlens.numerics.stats.intervals import (
    LEVEL,
    Interval,
    cluster_index,
    mean_by_clusters,
    paired_proportions,
)
from thoughtlens.numerics.stats.significance import (
    holm,
    mcnemar_exact,
    mcnemar_power,
    minimal_detectable_difference,
)

ALPHA = 1 - LEVEL
DELTA = 0.03
"""Differences below this (three points of accuracy) count as equivalent, unless said otherwise."""
NO_INFORMATION = "no information"
"""Verdict where a predictor knows nothing: it gives one class only, or cannot be told from guessing."""
SHARED = "shared training folds"
"""In the name of a test: its variance is that of scores whose folds were trained on the same units."""


def verdict(low: float, high: float, *, delta: float = DELTA, p: float | None = None) -> str:
    """What a paired interval of (a - b) allows to say of a, larger scores being better.

    - `equivalent`: the whole interval lies within -delta and delta;
    - `better` / `worse`: the interval does not contain 0, and `p`, where there is one, is at most 0.05;
    - `inconclusive`: anything else. Never "better" or "worse" with 0 inside the interval.
    """
    if not low <= high:
        raise DataError(f"Expected an interval with low <= high, got {low} and {high}")
    if delta < 0:
        raise ConfigError(f"Expected delta >= 0, got {delta}")
    if -delta <= low and high <= delta:
        return "equivalent"
    return side(low, high, p)


class Tested(NamedTuple):
    """One of several differences: its interval, the clusters behind it, and its own p."""

    low: float
    high: float
    n: int
    p: float | None = None
    """None: as the interval says."""


class Said(NamedTuple):
    """What a difference allows to say as one of several."""

    p_holm: float
    verdict: str


def family(tested: Sequence[Tested], *, delta: float = DELTA) -> list[Said]:
    """The verdicts of differences that are looked at together, none of them named before.

    Both what `better` and `worse` rest on (p) and what `equivalent` rests on (two one-sided tests against
    `delta`, Schuirmann 1987, doubled as a 95 % interval within it is) are adjusted for their number (Holm
    1979), so that with probability 0.95 no side that is named is wrong, and no equivalence.
    """
    both = [_by_interval(one.low, one.high, one.n, delta) for one in tested]
    differ = holm([own if one.p is None else one.p for one, (own, _) in zip(tested, both, strict=True)])
    alike = holm([p for _, p in both])
    out = []
    for one, p, same in zip(tested, differ.tolist(), alike.tolist(), strict=True):
        word = "equivalent" if same <= ALPHA else side(one.low, one.high, p)
        out.append(Said(p, word))
    return out


def side(low: float, high: float, p: float | None) -> str:
    """better, worse or inconclusive: a side only where the interval and p both allow it."""
    if (p is not None and p > ALPHA) or low <= 0 <= high:
        return "inconclusive"
    return "better" if low > 0 else "worse"


def _by_interval(low: float, high: float, n: int, delta: float, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided p of no difference, and that of a difference of at least `delta`, of a symmetric interval."""
    centre, half, df = (low + high) / 2, (high - low) / 2, max(n - 1, 1)
    spread = half / float(scipy.special.stdtrit(df, (1 + level) / 2))
    if spread == 0:
        return float(centre == 0), float(abs(centre) > delta)
    differ, alike = (
        2 * scipy.special.stdtr(df, -(gap / spread)) for gap in (abs(centre), delta - abs(centre))
    )
    return float(differ), min(float(alike), 1.0)


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
    inflation: float = 1.0,
) -> Comparison:
    """Compare two classifiers by which of the same rows each gets right.

    Without clusters (or one row in each): Bonett and Price's interval and exact McNemar. With clusters:
    Student's interval over clusters, and exact McNemar's sign test over clusters (ahead, behind, ties left
    out). Of predictions out of fold, whose variance is `inflation` times larger than that of independent
    ones, p is the larger of that and of the t-test behind the interval.

    Raises:
        DataError: arms of different rows, none at all, or values that are neither right (1) nor wrong (0).
    """
    a, b = (np.asarray(correct) for correct in (correct_a, correct_b))
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise DataError("Expected 1 for right and 0 for wrong, got other values; numbers: compare_values")
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise DataError(f"Expected two arms scored on the same rows, got shapes {a.shape} and {b.shape}")
    index, n = cluster_index(np.arange(len(a)) if clusters is None else clusters)
    gap = a.astype(float) - b.astype(float)
    ahead = np.bincount(index, weights=gap, minlength=n)
    n_ahead, n_behind = int((ahead > 0).sum()), int((ahead < 0).sum())
    alone = n == len(a)
    p, test = mcnemar_exact(n_ahead, n_behind), "exact McNemar" if alone else "exact sign test over clusters"
    if alone and inflation == 1:
        difference = paired_proportions(n_ahead, n_behind, n, level=level)
    else:
        difference = mean_by_clusters(gap, index, level=level, inflation=inflation, bound=1.0)
    if inflation != 1:
        p, test = max(p, _p(difference, delta)), f"paired t, {SHARED}"
    worth, discordance = max(int(n / inflation), 1), (n_ahead + n_behind) / n
    return Comparison(
        verdict=verdict(difference.low, difference.high, delta=delta, p=p),
        difference=difference,
        delta=delta,
        p=p,
        test=test,
        b=n_ahead,
        c=n_behind,
        n_rows=len(a),
        n_clusters=n,
        minimal_detectable_difference=minimal_detectable_difference(worth, discordance),
        power=mcnemar_power(worth, min(delta, discordance), discordance),
    )


def compare_values(
    a: Shaped[np.ndarray, " rows"],
    b: Shaped[np.ndarray, " rows"],
    clusters: Sequence | Shaped[np.ndarray, " rows"] | None = None,
    *,
    delta: float = DELTA,
    level: float = LEVEL,
    inflation: float = 1.0,
) -> Comparison:
    """Compare two arms by a number each gets on the same rows, larger being better, as `compare`.

    Student's interval of the mean difference over clusters, and the paired t-test behind it.
    """
    if len(a) != len(b):
        raise DataError(f"Expected two arms scored on the same rows, got {len(a)} and {len(b)}")
    gap = np.asarray(a, float) - np.asarray(b, float)
    index, n = cluster_index(np.arange(len(gap)) if clusters is None else clusters)
    difference = mean_by_clusters(gap, index, level=level, inflation=inflation)
    ahead = np.bincount(index, weights=gap, minlength=n)
    quantile = scipy.special.stdtrit(n - 1, (1 + level) / 2)
    spread = (difference.high - difference.low) / (2 * quantile)
    p = _p(difference, delta)
    return Comparison(
        verdict=verdict(difference.low, difference.high, delta=delta, p=p),
        difference=difference,
        delta=delta,
        p=p,
        test="paired t over clusters" if inflation == 1 else f"paired t, {SHARED}",
        b=int((ahead > 0).sum()),
        c=int((ahead < 0).sum()),
        n_rows=len(gap),
        n_clusters=n,
        minimal_detectable_difference=float((quantile + scipy.special.stdtrit(n - 1, 0.8)) * spread),
        power=float(scipy.special.stdtr(n - 1, -(quantile - delta / spread))) if spread > 0 else 1.0,
    )


def _p(difference: Interval, delta: float) -> float:
    return _by_interval(difference.low, difference.high, difference.n, delta, difference.level)[0]
