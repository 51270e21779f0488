"""Tests of a difference and of many at once, and the power to find one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
from jaxtyping import Float, Int, Shaped

from thoughtlens.core import ConfigError, DataError
from thoughtlens.numerics.stats.intervals import LEVEL, require_level


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact McNemar p: b of b + c discordant pairs, against a fair coin. 1 if there are none."""
    if min(b, c) < 0:
        raise DataError(f"Expected counts of discordant pairs, got b = {b}, c = {c}")
    return float(scipy.stats.binomtest(b, b + c).pvalue) if b + c else 1.0


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
    reject = scipy.stats.binom.cdf(critical, m, share) + scipy.stats.binom.cdf(critical, m, 1 - share)
    return float((scipy.stats.binom.pmf(m, n, discordance) * reject).sum())


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
    half = float(scipy.special.stdtrit(len(d) - 1, (1 + require_level(level)) / 2)) * se
    at_once = 0.0 if mean == 0 else float(np.copysign(np.inf, mean))
    t = mean / se if se > 0 else at_once
    p = float(2 * scipy.special.stdtr(len(d) - 1, -abs(t)))
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


def shuffled_blocks(groups: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """A random order of sorted rows that keeps each group's rows together, in their order.

    Where every group is one row this is a random permutation; else it keeps the dependence within groups.
    """
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    lengths = np.diff(np.r_[starts, len(groups)])
    order = rng.permutation(len(starts))
    ends = np.cumsum(lengths[order])
    return np.arange(len(groups)) + np.repeat(starts[order] - (ends - lengths[order]), lengths[order])


@lru_cache(maxsize=8)
def _critical_counts(n: int, alpha: float) -> np.ndarray:
    """For each number m <= n of discordant pairs, the largest min(b, c) that rejects; -1 for none."""
    m = np.arange(n + 1)
    critical = scipy.stats.binom.ppf(alpha / 2, m, 0.5) - 1
    critical = np.where(scipy.stats.binom.cdf(critical + 1, m, 0.5) <= alpha / 2, critical + 1, critical)
    critical[0] = -1
    return critical
