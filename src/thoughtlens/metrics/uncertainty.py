"""How sure a number is, and whether two differ: intervals, paired tests, power, and the verdict.

The unit of uncertainty is the cluster (problem, document, template): its rows are resampled
together, because they are not independent. Numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from thoughtlens.errors import ConfigError, DataError

LEVEL = 0.95
DELTA = 0.03
"""Differences below this (three points of accuracy) count as equivalent, unless said otherwise."""

N_RESAMPLES = 2000
CHUNK = 64_000_000
"""Bytes of resampling weights held at once."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float
    level: float
    n: int
    """Independent units: rows, or clusters where rows are clustered."""
    method: str

    def to_json(self) -> dict[str, Any]:
        """A plain dict, for `result.json`."""
        return asdict(self)


def wilson(k: int, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson score interval of a proportion, k successes in n independent trials.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Wilson 1927, JASA 22.
    """
    if not 0 <= k <= n or n < 1:
        raise DataError(f"Expected 0 <= k <= n with n >= 1, got k = {k}, n = {n}")
    z = stats.norm.ppf((1 + _level(level)) / 2)
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(estimate=p, low=float(low), high=float(high), level=level, n=n, method="Wilson")


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
    index, n = _clusters(clusters)
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
    index, n = _clusters(np.arange(len(numerator)) if clusters is None else clusters)
    sums = np.stack([np.bincount(index, weights=w, minlength=n) for w in (numerator, denominator)], axis=1)
    if not np.isfinite(sums).all():
        raise DataError("Expected finite values to resample, got NaN or Inf")
    if sums[:, 1].sum() == 0:
        raise DataError(f"The denominator sums to 0 over {n} clusters; the ratio has no value")
    rng = np.random.default_rng(seed)
    per_chunk = max(1, CHUNK // (8 * n))
    draws = []
    for start in range(0, n_resamples, per_chunk):
        top, bottom = (_weights(rng, n, min(per_chunk, n_resamples - start)) @ sums).T
        draws.append(np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0))
    estimate = float(sums[:, 0].sum() / sums[:, 1].sum())
    return _percentile(estimate, np.concatenate(draws), n, level)


def bootstrap_means(
    values: Float[np.ndarray, "rows columns"],
    clusters: Sequence | Shaped[np.ndarray, " rows"],
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Interval]:
    """Cluster bootstrap of the mean of every column, on the same resamples: for many columns at once."""
    index, n = _clusters(clusters)
    if not np.isfinite(values).all():
        raise DataError("Expected finite values to resample, got NaN or Inf")
    columns = np.column_stack([np.ones(len(values)), values])
    sums = np.stack([np.bincount(index, weights=w, minlength=n) for w in columns.T], axis=1)
    rng = np.random.default_rng(seed)
    per_chunk = max(1, CHUNK // (8 * n))
    draws = []
    for start in range(0, n_resamples, per_chunk):
        total = _weights(rng, n, min(per_chunk, n_resamples - start)) @ sums
        draws.append(total[:, 1:] / total[:, :1])
    means = np.concatenate(draws).T
    return [_percentile(float(v.mean()), d, n, level) for v, d in zip(values.T, means, strict=True)]


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
        half = 1 - (1 - _level(level)) ** (1 / n)
    else:
        half = stats.norm.ppf((1 + _level(level)) / 2) * np.sqrt(b + c - (b - c) ** 2 / n) / n
    low, high = max(-1.0, d - half), min(1.0, d + half)
    return Interval(estimate=d, low=float(low), high=float(high), level=level, n=n, method="paired Wald")


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact McNemar p: b of b + c discordant pairs, against a fair coin. 1 if there are none."""
    if min(b, c) < 0:
        raise DataError(f"Expected counts of discordant pairs, got b = {b}, c = {c}")
    return float(min(1.0, 2 * stats.binom.cdf(min(b, c), b + c, 0.5)))


def mcnemar_power(n: int, difference: float, discordance: float, *, alpha: float = 0.05) -> float:
    """Probability that exact McNemar rejects at `alpha`, for n independent pairs.

    `difference` is the true difference of the two accuracies, `discordance` the true share of pairs
    on which the arms disagree in being right; it cannot be below |difference|.
    """
    if not abs(difference) <= discordance <= 1:
        raise ConfigError(f"Expected |difference| <= discordance <= 1, got {difference} and {discordance}")
    if discordance == 0:
        return 0.0
    share = (discordance + abs(difference)) / (2 * discordance)
    m = np.arange(1, n + 1)
    critical = _critical_counts(n, alpha)[1:]
    reject = stats.binom.cdf(critical, m, share) + stats.binom.cdf(critical, m, 1 - share)
    return float((stats.binom.pmf(m, n, discordance) * reject).sum())


def minimal_detectable_difference(
    n: int, discordance: float, *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest true difference that exact McNemar finds with probability `power`; None if there is none.

    n independent pairs of which a share `discordance` disagrees. To within 1e-4.
    """
    if not 0 <= discordance <= 1:
        raise ConfigError(f"Expected a discordance between 0 and 1, got {discordance}")
    if mcnemar_power(n, discordance, discordance, alpha=alpha) < power:
        return None
    low, high = 0.0, float(discordance)
    while high - low > 1e-4:
        middle = (low + high) / 2
        enough = mcnemar_power(n, middle, discordance, alpha=alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


@dataclass(frozen=True, kw_only=True)
class TTest:
    """A corrected resampled t-test."""

    estimate: float
    low: float
    high: float
    t: float
    df: int
    p: float


def corrected_resampled_t(
    differences: Sequence[float] | Shaped[np.ndarray, " folds"],
    n_train: float,
    n_test: float,
    *,
    level: float = LEVEL,
) -> TTest:
    """Nadeau and Bengio's t-test for scores of repeated folds, which share training rows.

    t = mean / sqrt((1/J + n_test/n_train) s^2), df = J - 1, s^2 with J - 1 in the denominator
    (Nadeau and Bengio 2003, "Inference for the generalization error"). Where all differences are
    equal, p is 1 for zero and 0 otherwise.
    """
    d = np.asarray(differences, dtype=float)
    if len(d) < 2 or not (n_train > 0 and n_test > 0):
        raise DataError(
            f"Expected two or more folds of positive size, got {len(d)} of {n_train} and {n_test} rows"
        )
    mean = float(d.mean())
    se = float(np.sqrt((1 / len(d) + n_test / n_train) * d.var(ddof=1)))
    half = float(stats.t.ppf((1 + _level(level)) / 2, len(d) - 1)) * se
    at_once = 0.0 if mean == 0 else float(np.copysign(np.inf, mean))
    t = mean / se if se > 0 else at_once
    p = float(2 * stats.t.sf(abs(t), len(d) - 1))
    return TTest(estimate=mean, low=mean - half, high=mean + half, t=t, df=len(d) - 1, p=p)


def holm(p_values: Sequence[float] | Shaped[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Holm's step-down adjusted p-values (1979): reject those at or below alpha, and no family of
    tests errs anywhere with probability above alpha, however they depend on each other."""
    p = np.asarray(p_values, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"Expected p-values between 0 and 1, got {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]).clip(max=1)
    out = np.empty(len(p))
    out[order] = adjusted
    return out


def permutation_p(observed: float, null: Shaped[np.ndarray, " permutations"]) -> float:
    """One-sided p of `observed` among scores under permuted labels: (1 + #{null >= observed}) / (1 + #)."""
    if len(null) == 0:
        raise DataError("A permutation test needs at least one permutation, got none")
    return float((1 + (np.asarray(null) >= observed).sum()) / (1 + len(null)))


def max_statistic(
    observed: Shaped[np.ndarray, " cells"], null: Shaped[np.ndarray, "permutations cells"]
) -> Float[np.ndarray, " cells"]:
    """p of each cell's score against the best cell of each permutation.

    Corrects "which cell is best" for having looked at all of them (Westfall and Young 1993).
    """
    best = np.asarray(null).max(axis=1)
    return np.array([permutation_p(score, best) for score in np.asarray(observed)])


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
class Comparison:
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

    def to_json(self) -> dict[str, Any]:
        """A plain dict, for `result.json`."""
        return asdict(self)


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
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise DataError(f"Expected two arms scored on the same rows, got shapes {a.shape} and {b.shape}")
    index, n = _clusters(np.arange(len(a)) if clusters is None else clusters)
    ahead = np.bincount(index, weights=a.astype(float) - b, minlength=n)
    n_ahead, n_behind = int((ahead > 0).sum()), int((ahead < 0).sum())
    if n == len(a) or n_ahead + n_behind == 0:
        difference = paired_proportions(n_ahead, n_behind, n, level=level)
    else:
        difference = paired_difference(a.astype(float), b.astype(float), index, level=level, seed=seed)
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
        minimal_detectable_difference=minimal_detectable_difference(n, (n_ahead + n_behind) / n),
    )


def _clusters(clusters: Sequence | Shaped[np.ndarray, " rows"]) -> tuple[np.ndarray, int]:
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        raise DataError(f"An interval needs at least 2 clusters to resample, got {len(names)}")
    return index, len(names)


def _weights(rng: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples)


def _percentile(estimate: float, draws: np.ndarray, n: int, level: float) -> Interval:
    draws = draws[np.isfinite(draws)]
    if len(draws) == 0 or not np.isfinite(estimate):
        raise DataError(f"The statistic has no value on these {n} clusters; is a class missing?")
    t = stats.t.ppf((1 + _level(level)) / 2, n - 1) * np.sqrt(n / (n - 1))
    low, high = np.quantile(draws, [stats.norm.cdf(-t), stats.norm.cdf(t)])
    return Interval(
        estimate=estimate, low=float(low), high=float(high), level=level, n=n, method="cluster bootstrap"
    )


@lru_cache(maxsize=8)
def _critical_counts(n: int, alpha: float) -> np.ndarray:
    """For each number m <= n of discordant pairs, the largest min(b, c) that rejects; -1 for none."""
    m = np.arange(n + 1)
    critical = stats.binom.ppf(alpha / 2, m, 0.5) - 1
    critical = np.where(stats.binom.cdf(critical + 1, m, 0.5) <= alpha / 2, critical + 1, critical)
    critical[0] = -1
    return critical


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise ConfigError(f"Expected a confidence level between 0 and 1, got {level}")
    return level
