"""Every arm against one, paired on the same units, with verdicts that their intervals allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Int, Shaped

from thoughtlens.core import Number
from thoughtlens.evals.probing.records import Comparison, Paired
from thoughtlens.numerics import compare, compare_values, corrected_resampled_t, holm

DEFINITIONS = {
    "difference": "score of the first arm minus that of the second on the same units",
    "p": "exact McNemar (exact sign test over groups where a group has several units); of numbers, paired t "
    "over groups",
    "p_holm": "p adjusted over all comparisons of the table but the primary one (Holm 1979)",
    "p_resampled": "corrected resampled t-test over the outer folds (Nadeau and Bengio 2003)",
    "minimal_detectable_difference": "the smallest true difference found with probability 0.8 at this n",
    "power": "probability of finding a true difference of delta at this n",
}


def comparisons(
    right: Mapping[tuple[str, str], Shaped[np.ndarray, " n"]],
    groups: Int[np.ndarray, " n"],
    *,
    against: str,
    primary: tuple[str, str],
    delta: float,
    seed: int,
    outer: Int[np.ndarray, " n"] | None = None,
) -> list[Comparison]:
    """Every arm against `against` at the same pooling, with verdicts; Holm over all but the primary one.

    Args:
        right: By (arm, pooling), which units the arm gets right, or each unit's skill.
        groups: Group of each unit.
        against: The arm that all others are compared with.
        primary: The (arm, pooling) named before looking.
        delta: Differences below this are equivalent.
        seed: Of the bootstrap.
        outer: Outer fold of each unit, for the resampled t-test.
    """
    rows = []
    for (arm, pooling), own in right.items():
        if arm != against:
            other = right.get((against, pooling), right[against, primary[1]])
            row = Comparison(
                arm=arm,
                pooling=pooling,
                against=against,
                primary=(arm, pooling) == primary,
                **vars(paired(own, other, groups, delta=delta, seed=seed)),
                p_resampled=None if outer is None else _resampled(own, other, outer),
            )
            rows.append(row)
    adjusted = iter(holm([row.p for row in rows if not row.primary]).tolist())
    return [row if row.primary else replace(row, p_holm=next(adjusted)) for row in rows]


def number(row: Comparison, split: str) -> Number:
    """A comparison's difference, for a headline."""
    return Number(
        value=row.difference,
        low=row.low,
        high=row.high,
        n=row.n,
        split=split,
        verdict=row.verdict,
        p=row.p,
        n_groups=row.n_groups,
    )


def paired(
    a: Shaped[np.ndarray, " n"],
    b: Shaped[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    delta: float,
    seed: int,
) -> Paired:
    """One comparison: difference, interval, test, n, power and verdict."""
    found = (compare if a.dtype == bool else compare_values)(a, b, groups, delta=delta, seed=seed)
    return Paired(
        difference=found.difference.estimate,
        low=found.difference.low,
        high=found.difference.high,
        p=found.p,
        test=found.test,
        n_only_first=found.b,
        n_only_second=found.c,
        n=found.n_rows,
        n_groups=found.n_clusters,
        delta=delta,
        minimal_detectable_difference=found.minimal_detectable_difference,
        power=found.power,
        verdict=found.verdict,
    )


def _resampled(a: np.ndarray, b: np.ndarray, outer: np.ndarray) -> float:
    sizes = np.bincount(outer)
    folds = np.bincount(outer, weights=a.astype(float) - b) / sizes
    return corrected_resampled_t(folds, len(outer) - sizes.mean(), sizes.mean()).p
