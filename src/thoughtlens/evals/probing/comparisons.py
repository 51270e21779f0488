"""Every arm against one, paired on the same units, with verdicts that their intervals allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from thoughtlens.numerics.stats.significance import corrected_resampled_t, holm
from thoughtlens.numerics.stats.verdicts import compare, compare_values

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
) -> list[dict[str, Any]]:
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
            row = {"arm": arm, "pooling": pooling, "against": against, "primary": (arm, pooling) == primary}
            rows.append(row | paired(own, other, groups, delta=delta, seed=seed, outer=outer))
    others = [row for row in rows if not row["primary"]]
    if others:
        for row, p in zip(others, holm([row["p"] for row in others]), strict=True):
            row["p_holm"] = float(p)
    return rows


def paired(
    a: Shaped[np.ndarray, " n"],
    b: Shaped[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    delta: float,
    seed: int,
    outer: Int[np.ndarray, " n"] | None = None,
) -> dict[str, Any]:
    """One comparison as a flat row: difference, interval, tests, n, power and verdict."""
    found = (compare if a.dtype == bool else compare_values)(a, b, groups, delta=delta, seed=seed)
    row: dict[str, Any] = {
        "difference": found.difference.estimate,
        "low": found.difference.low,
        "high": found.difference.high,
        "p": found.p,
        "test": found.test,
        "n_only_first": found.b,
        "n_only_second": found.c,
        "n": found.n_rows,
        "n_groups": found.n_clusters,
        "delta": delta,
        "minimal_detectable_difference": found.minimal_detectable_difference,
        "power": found.power,
        "verdict": found.verdict,
    }
    if outer is not None:
        sizes = np.bincount(outer)
        folds = np.bincount(outer, weights=a.astype(float) - b) / sizes
        test = corrected_resampled_t(folds, len(outer) - sizes.mean(), sizes.mean())
        row["p_resampled"] = test.p
    return row
