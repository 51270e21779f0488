"""Intervals of a number and of a paired difference. The unit is the cluster (problem, document, template):
its rows are resampled together, because they are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from thoughtlens.core import ConfigError, DataError, Record

LEVEL = 0.95
N_RESAMPLES = 2000
CHUNK = 64_000_000
"""Bytes of resampling weights held at once."""


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


def wilson(k: int, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson score interval of a proportion, k successes in n independent trials.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Wilson 1927, JASA 22.
    """
    if not 0 <= k <= n or n < 1:
        raise DataError(f"Expected 0 <= k <= n with n >= 1, got k = {k}, n = {n}")
    low, high = stats.binomtest(k, n).proportion_ci(require_level(level), "wilson")
    return Interval(estimate=k / n, low=float(low), high=float(high), level=level, n=n, method="Wilson")


def cluster_bootstrap(
    statistic: Callable[[Float[np.ndarray, " rows"]], float],
    clusters: Sequence | Shaped[np.ndarray, " rows"],
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
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

    Returns:
        The expanded percentile interval: quantiles widened for few clusters (Hesterberg 2015, "What
        teachers should know about the bootstrap", arXiv:1411.5279, 5.3). Resamples on which the
        statistic is NaN (a class that was not drawn) are left out.
    """
    index, n = cluster_index(clusters)
    rng = np.random.default_rng(seed)
    draws = np.array(
        [statistic(_weights(rng, n, 1)[0][index].astype(float)) for _ in range(n_resamples)], dtype=float
    )
    return _percentile(float(statistic(np.ones(len(index)))), draws, n, level)


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
    top, bottom = _resampled(sums, n_resamples, seed).T
    draws = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0)
    return _percentile(float(sums[:, 0].sum() / sums[:, 1].sum()), draws, n, level)


def bootstrap_means(
    values: Float[np.ndarray, "rows columns"],
    clusters: Sequence | Shaped[np.ndarray, " rows"],
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Interval]:
    """Cluster bootstrap of the mean of every column, on the same resamples: for many columns at once."""
    index, n = cluster_index(clusters)
    total = _resampled(_sums([np.ones(len(values)), *values.T], index, n), n_resamples, seed)
    means = (total[:, 1:] / total[:, :1]).T
    return [_percentile(float(v.mean()), d, n, level) for v, d in zip(values.T, means, strict=True)]


def bootstrap_sums(
    sums: Float[np.ndarray, "clusters columns"],
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
    values = statistics(np.vstack([sums.sum(0), _resampled(sums, n_resamples, seed)]))
    return [_percentile(float(column[0]), column[1:], len(sums), level) for column in values.T]


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
    """Wald interval of a paired difference of proportions, (b - c) / n.

    `b` of `n` independent pairs are right in the first arm only, `c` in the second only:
    d +- z sqrt(b + c - (b - c)^2 / n) / n. Where all pairs agree that would have no width; there the
    exact bound on the rate of disagreement is used, 1 - (1 - level)^(1/n).
    """
    if min(b, c) < 0 or b + c > n or n < 1:
        raise DataError(f"Expected b, c >= 0 and b + c <= n, got b = {b}, c = {c}, n = {n}")
    d = (b - c) / n
    if b + c == 0:
        half = 1 - (1 - require_level(level)) ** (1 / n)
    else:
        half = stats.norm.ppf((1 + require_level(level)) / 2) * np.sqrt(b + c - (b - c) ** 2 / n) / n
    low, high = max(-1.0, d - half), min(1.0, d + half)
    return Interval(estimate=d, low=float(low), high=float(high), level=level, n=n, method="paired Wald")


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


def _resampled(
    sums: Float[np.ndarray, "clusters columns"], n_resamples: int, seed: int
) -> Float[np.ndarray, "resamples columns"]:
    """Totals over clusters drawn with replacement."""
    rng, n = np.random.default_rng(seed), len(sums)
    per_chunk = max(1, CHUNK // (8 * n))
    sizes = (min(per_chunk, n_resamples - start) for start in range(0, n_resamples, per_chunk))
    return np.concatenate([_weights(rng, n, size) @ sums for size in sizes])


def _weights(rng: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples)


def _percentile(estimate: float, draws: np.ndarray, n: int, level: float) -> Interval:
    draws = draws[np.isfinite(draws)]
    if len(draws) == 0 or not np.isfinite(estimate):
        raise DataError(f"The statistic has no value on these {n} clusters; is a class missing?")
    t = stats.t.ppf((1 + require_level(level)) / 2, n - 1) * np.sqrt(n / (n - 1))
    low, high = np.quantile(draws, [stats.norm.cdf(-t), stats.norm.cdf(t)])
    return Interval(
        estimate=estimate, low=float(low), high=float(high), level=level, n=n, method="cluster bootstrap"
    )


def require_level(level: float) -> float:
    """The level, or ConfigError outside 0..1."""
    if not 0 < level < 1:
        raise ConfigError(f"Expected a confidence level between 0 and 1, got {level}")
    return level
