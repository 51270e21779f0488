"""Intervals of a number and of a paired difference. The unit is the cluster (problem, document, template):
its rows are resampled together, because they are not independent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import numpy as np
import scipy
import scipy.sparse as sp
from jaxtyping import Float, Float32, Int, Shaped

from thoughtlens.core import ConfigError, DataError, Number, Record

LEVEL = 0.95
N_RESAMPLES = 2000
FEW = 20
"""Clusters below which quantiles of resamples are too narrow."""
SHARED_TRAINING = 2.0
"""How many times larger the variance of a score over all folds is than that of independent units, at most.

Where there is nothing to learn, whether a unit is guessed depends on the labels of the units in other folds,
and theirs on its own: a sum over pairs, each counted twice. Of what is learnt less depends on single units.
"""
CHUNK = 64_000_000
"""Bytes of resampling weights held at once."""
KEPT = 1 << 24
"""Draws up to which they are kept for the next number."""


@dataclass(frozen=True, kw_only=True)
class Interval(Record):
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float
    level: float
    n: int
    """Independent units: rows, or clusters where rows are clustered."""
    method: str

    def number(self, split: str | None = None) -> Number:
        """As it stands in a result, measured on `split`."""
        return Number(value=self.estimate, low=self.low, high=self.high, n=self.n, split=split)


def wilson(k: int, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson score interval of a proportion, k successes in n independent trials.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Wilson 1927, JASA 22.
    """
    if not 0 <= k <= n or n < 1:
        raise DataError(f"Expected 0 <= k <= n with n >= 1, got k = {k}, n = {n}")
    low, high = _wilson_ends(k / n, n, _normal(level))
    low, high = (0.0 if k == 0 else low), (1.0 if k == n else high)
    return Interval(estimate=k / n, low=low, high=high, level=level, n=n, method="Wilson")


def proportion(
    hits: Shaped[np.ndarray, " rows"],
    clusters: Sequence | Shaped[np.ndarray, " rows"] | None = None,
    *,
    level: float = LEVEL,
    inflation: float = 1.0,
) -> Interval:
    """Share of rows that are 1, with Wilson's interval at the number of independent rows that they are worth.

    That is p (1 - p) / var(p), the variance being that over clusters (Kish 1965), at most the number of rows,
    and corrected for few clusters by Student's quantile (Korn and Graubard 1998, Survey Methodology 24).
    Where clusters do not vary, as at 0 and 1, it is the number of clusters, so that there is a width too.

    Args:
        hits: 1 or 0 of each row.
        clusters: The cluster of each row; each row its own if None.
        level: Confidence.
        inflation: How many times larger the variance is than that of independent clusters
            (`SHARED_TRAINING`).
    """
    hits = np.asarray(hits, dtype=float)
    own = np.arange(len(hits)) if clusters is None else np.asarray(clusters)
    names, index = np.unique(own, return_inverse=True)
    if len(hits) == 0 or not np.isin(hits, (0, 1)).all():
        raise DataError("Expected at least one row, each 1 or 0, for a share")
    n, p = len(names), float(hits.mean())
    if n == len(hits) and inflation == 1:
        return wilson(int(hits.sum()), n, level=level)
    worth = float(n)
    if n < len(hits):
        sums, sizes = (np.bincount(index, weights=w) for w in (hits, np.ones(len(hits))))
        spread = n / max(n - 1, 1) * ((sums - p * sizes) ** 2).sum() / len(hits) ** 2
        worth = min(p * (1 - p) / float(spread), float(len(hits))) if spread > 0 else worth
        worth *= (_normal(level) / float(scipy.special.stdtrit(max(n - 1, 1), (1 + level) / 2))) ** 2
    low, high = _wilson_ends(p, worth / inflation, _normal(level))
    method = "Wilson, effective n" if inflation == 1 else "Wilson, shared training folds"
    return Interval(estimate=p, low=low, high=high, level=level, n=n, method=method)


def cluster_bootstrap(
    statistic: Callable[[Float[np.ndarray, " rows"]], float],
    clusters: Sequence | Shaped[np.ndarray, " rows"],
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    share: bool = False,
) -> Interval:
    """Bootstrap interval of any weighted statistic, whole clusters resampled with replacement.

    Args:
        statistic: Takes a weight for each row (how often its cluster was drawn) and returns the
            number; `sample_weight` of scikit-learn's metrics fits. For a paired difference, return
            the difference of two such numbers.
        clusters: The cluster of each row.
        n_resamples: How many resamples.
        level: Confidence.
        seed: Of the resampling.
        share: The statistic lies between 0 and 1 (AUC, F1): where no resample moves it from an end,
            Wilson's bound for no failure in as many clusters is its other one.

    Returns:
        The expanded percentile interval: quantiles widened for few clusters (Hesterberg 2015, "What
        teachers should know about the bootstrap", arXiv:1411.5279, 5.3). Resamples on which the
        statistic is NaN (a class that was not drawn) are left out.
    """
    index, n = cluster_index(clusters)
    weights = (one for chunk in drawn_weights(n, n_resamples, seed) for one in chunk)
    draws = np.array([statistic(own[index].astype(float)) for own in weights], dtype=float)
    found = percentile(float(statistic(np.ones(len(index)))), draws, n, level)
    if share and found.low == found.high and found.estimate in (0, 1):
        ends = wilson(round(found.estimate) * n, n, level=level)
        return replace(found, low=ends.low, high=ends.high, method=ends.method)
    return found


def bootstrap_mean(
    values: Shaped[np.ndarray, " rows"],
    clusters: Sequence | Shaped[np.ndarray, " rows"] | None = None,
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Cluster bootstrap of a mean over rows; each row its own cluster if `clusters` is None."""
    return bootstrap_ratio(
        values, np.ones(len(values)), clusters, n_resamples=n_resamples, level=level, seed=seed
    )


def bootstrap_ratio(
    numerator: Shaped[np.ndarray, " rows"],
    denominator: Shaped[np.ndarray, " rows"],
    clusters: Sequence | Shaped[np.ndarray, " rows"] | None = None,
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Cluster bootstrap of sum(numerator) / sum(denominator): FVU, a mean over rows, a CE score."""
    index, n = cluster_index(np.arange(len(numerator)) if clusters is None else clusters)
    sums = _sums([numerator, denominator], index, n)
    if sums[:, 1].sum() == 0:
        raise DataError(f"The denominator sums to 0 over {n} clusters; the ratio has no value")
    top, bottom = resampled(sums, n_resamples, seed).T
    draws = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0)
    return percentile(float(sums[:, 0].sum() / sums[:, 1].sum()), draws, n, level)


def bootstrap_means(
    values: Float[np.ndarray, "rows columns"],
    clusters: Sequence | Shaped[np.ndarray, " rows"],
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Interval]:
    """Cluster bootstrap of the mean of every column, on the same resamples: for many columns at once.

    Of fewer than `FEW` clusters it is widened to Student's interval over them.
    """
    index, n = cluster_index(clusters)
    total = resampled(_sums([np.ones(len(values)), *values.T], index, n), n_resamples, seed)
    draws = (total[:, 1:] / total[:, :1]).T
    found = [percentile(float(v.mean()), d, n, level) for v, d in zip(values.T, draws, strict=True)]
    if n >= FEW:
        return found
    return [_widened(one, v, index) for one, v in zip(found, values.T, strict=True)]


def _widened(found: Interval, values: Float[np.ndarray, " rows"], index: np.ndarray) -> Interval:
    """At least as wide as Student's interval of the mean over clusters; of what has no sign, from 0 on."""
    n = found.n
    deviations = np.bincount(index, weights=values - found.estimate, minlength=n) / len(values)
    error = np.sqrt(n / (n - 1) * np.square(deviations).sum())
    half = float(scipy.special.stdtrit(n - 1, (1 + found.level) / 2) * error)
    low, high = min(found.low, found.estimate - half), max(found.high, found.estimate + half)
    if values.min() >= 0:
        low = max(low, 0.0)
    return replace(found, low=low, high=min(high, 1.0) if np.isin(values, (0, 1)).all() else high)


def bootstrap_sums(
    sums: Float[np.ndarray, "clusters columns"] | sp.csr_array,
    statistics: Callable[[Float[np.ndarray, "resamples columns"]], Float[np.ndarray, "resamples m"]],
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Interval]:
    """Cluster bootstrap of numbers that follow from totals over clusters, such as a mean F1 over classes.

    Args:
        sums: What each cluster adds to every total.
        statistics: Totals, a line for each resample, to the numbers.
        n_resamples: How many resamples.
        level: Confidence.
        seed: Of the resampling.
    """
    values = statistics(np.vstack([sums.sum(0), resampled(sums, n_resamples, seed)]))
    return [percentile(float(column[0]), column[1:], _rows(sums), level) for column in values.T]


def paired_difference(
    a: Shaped[np.ndarray, " rows"],
    b: Shaped[np.ndarray, " rows"],
    clusters: Sequence | Shaped[np.ndarray, " rows"] | None = None,
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Cluster bootstrap of mean(a - b), a and b being scores of two arms on the same rows."""
    if len(a) != len(b):
        raise DataError(f"Expected two arms scored on the same rows, got {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    return bootstrap_mean(difference, clusters, n_resamples=n_resamples, level=level, seed=seed)


def paired_proportions(b: int, c: int, n: int, *, level: float = LEVEL) -> Interval:
    """Bonett and Price's interval of a paired difference of proportions, (b - c) / n.

    `b` of `n` independent pairs are right in the first arm only, `c` in the second only: Wald's interval
    with one pair more of either, which holds what it says for few pairs and has a width where all agree
    (Bonett and Price 2012, J. Educ. Behav. Stat. 37).
    """
    if min(b, c) < 0 or b + c > n or n < 1:
        raise DataError(f"Expected b, c >= 0 and b + c <= n, got b = {b}, c = {c}, n = {n}")
    m, d = n + 2, (b - c) / (n + 2)
    half = _normal(level) * np.sqrt((b + c + 2) / m - d**2) / np.sqrt(m)
    low, high = max(-1.0, d - half), min(1.0, d + half)
    return Interval(
        estimate=(b - c) / n, low=float(low), high=float(high), level=level, n=n, method="Bonett-Price"
    )


def mean_by_clusters(
    values: Shaped[np.ndarray, " rows"],
    clusters: Sequence | Shaped[np.ndarray, " rows"],
    *,
    level: float = LEVEL,
    inflation: float = 1.0,
    bound: float | None = None,
) -> Interval:
    """Student's interval of a mean over rows that come in clusters, by the spread between clusters.

    Args:
        values: Of each row.
        clusters: The cluster of each row.
        level: Confidence.
        inflation: How many times larger the variance is than that of independent clusters.
        bound: Largest size of a value; given, one cluster of mean size more at either end is counted (as
            Bonett and Price do with pairs), so that few clusters, or equal ones, do not look sure.
    """
    index, n = cluster_index(clusters)
    values = np.asarray(values, dtype=float)
    sums, sizes = _sums([values, np.ones(len(values))], index, n).T
    estimate, size = float(sums.sum() / sizes.sum()), float(sizes.mean())
    more = 0 if bound is None else 2
    total = sizes.sum() + more * size
    centre = sums.sum() / total
    square = inflation * ((sums - centre * sizes) ** 2).sum()
    if bound is not None:
        square += size**2 * ((bound - centre) ** 2 + (bound + centre) ** 2)
    spread = (n + more) / (n + more - 1) * square / total**2
    half = scipy.special.stdtrit(n - 1, (1 + require_level(level)) / 2) * np.sqrt(spread)
    low, high = centre - half, centre + half
    if bound is not None:
        low, high = max(low, -bound), min(high, bound)
    return Interval(
        estimate=estimate, low=float(low), high=float(high), level=level, n=n, method="t over clusters"
    )


def cluster_index(clusters: Sequence | Shaped[np.ndarray, " rows"]) -> tuple[np.ndarray, int]:
    """Each row's cluster as a number, and how many there are (DataError below 2)."""
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        raise DataError(f"An interval needs at least 2 clusters to resample, got {len(names)}")
    return index, len(names)


def _sums(
    columns: Sequence[Shaped[np.ndarray, " rows"]], index: np.ndarray, n: int
) -> Float[np.ndarray, "clusters columns"]:
    sums = np.stack([np.bincount(index, weights=w, minlength=n) for w in columns], axis=1)
    if not np.isfinite(sums).all():
        raise DataError("Expected finite values to resample, got NaN or Inf")
    return sums


def resampled(
    sums: Float[np.ndarray, "clusters columns"] | sp.csr_array, n_resamples: int, seed: int
) -> Float[np.ndarray, "resamples columns"]:
    """Totals over clusters drawn with replacement; sums that are sparse are whole numbers below 2^24."""
    n = _rows(sums)
    if isinstance(sums, np.ndarray):
        return np.concatenate([chunk @ sums for chunk in drawn_weights(n, n_resamples, seed)])
    few = sums.T.astype(np.float32)
    if n * n_resamples <= KEPT:
        return (few @ _turned(n, n_resamples, seed)).T.astype(float)
    parts = [few @ np.ascontiguousarray(w.T, np.float32) for w in drawn_weights(n, n_resamples, seed)]
    return np.hstack(parts).T.astype(float)


def _rows(table: np.ndarray | sp.csr_array) -> int:
    return cast(tuple[int, int], table.shape)[0]


def drawn_weights(n: int, n_resamples: int, seed: int) -> Iterator[Int[np.ndarray, "resamples clusters"]]:
    """How often each of n clusters is drawn in each resample, as many at a time as `CHUNK` allows.

    Many numbers of one study are resampled alike: few enough draws are kept.
    """
    per_chunk = max(1, CHUNK // (8 * n))
    if n * n_resamples <= KEPT:
        kept = _kept(n, n_resamples, seed)
        yield from (kept[low : low + per_chunk].astype(np.int64) for low in range(0, n_resamples, per_chunk))
        return
    rng = np.random.default_rng(seed)
    for low in range(0, n_resamples, per_chunk):
        yield _drawn(rng, n, min(per_chunk, n_resamples - low))


@lru_cache(maxsize=3)
def _turned(n: int, n_resamples: int, seed: int) -> Float32[np.ndarray, "clusters resamples"]:
    """All draws as sparse sums are multiplied by."""
    return np.ascontiguousarray(_kept(n, n_resamples, seed).T).astype(np.float32)


@lru_cache(maxsize=8)
def _kept(n: int, n_resamples: int, seed: int) -> Shaped[np.ndarray, "resamples clusters"]:
    """All draws, each in one byte or two."""
    found = _drawn(np.random.default_rng(seed), n, n_resamples)
    return found.astype(np.min_scalar_type(int(found.max())))


def _drawn(rng: np.random.Generator, n: int, n_resamples: int) -> Int[np.ndarray, "resamples clusters"]:
    found = np.empty((n_resamples, n), np.int64)
    for own in found:
        own[:] = np.bincount(rng.integers(n, size=n, dtype=np.uint32), minlength=n)
    return found


def percentile(estimate: float, draws: np.ndarray, n: int, level: float = LEVEL) -> Interval:
    """The interval between quantiles of what resamples of n clusters gave, widened for few (see above)."""
    draws = draws[np.isfinite(draws)]
    if len(draws) == 0 or not np.isfinite(estimate):
        raise DataError(f"The statistic has no value on these {n} clusters; is a class missing?")
    t = scipy.special.stdtrit(n - 1, (1 + require_level(level)) / 2) * np.sqrt(n / (n - 1))
    low, high = np.quantile(draws, scipy.special.ndtr([-t, t]))
    return Interval(
        estimate=estimate, low=float(low), high=float(high), level=level, n=n, method="cluster bootstrap"
    )


def _normal(level: float) -> float:
    """Normal quantile of a two-sided interval."""
    return float(scipy.special.ndtri((1 + require_level(level)) / 2))


def _wilson_ends(p: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share p of n rows, n not necessarily whole."""
    centre, scale = p + z**2 / (2 * n), 1 + z**2 / n
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return float(max((centre - half) / scale, 0.0)), float(min((centre + half) / scale, 1.0))


def require_level(level: float) -> float:
    """The level, or ConfigError outside 0..1."""
    if not 0 < level < 1:
        raise ConfigError(f"Expected a confidence level between 0 and 1, got {level}")
    return level
