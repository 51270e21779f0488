"""Every arm against one, paired on the same units, with verdicts that their intervals and tests allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int, Shaped

from thoughtlens.core import Number
from thoughtlens.evals.probing.records import Comparison, Paired
from thoughtlens.numerics import (
    NO_INFORMATION,
    SHARED_TRAINING,
    Said,
    Tested,
    compare,
    compare_values,
    corrected_resampled_t,
    family,
)

DEFINITIONS = {
    "difference": "score of the first arm minus that of the second on the same units",
    "p": "paired t-test over groups, the variance doubled because folds share training units, and of "
    "accuracies at least exact McNemar's (sign test over groups where a group has several units); on test "
    "rows of their own McNemar's (sign test) alone",
    "p_holm": "p adjusted over all comparisons of the table but the primary one (Holm 1979)",
    "p_resampled": "corrected resampled t-test over the means of the outer folds (Nadeau and Bengio 2003)",
    "verdict": "better, worse: p_holm (of the primary comparison p) is at most 0.05, and the interval does "
    "not hold 0; equivalent: two one-sided tests against delta, adjusted in the same way; no information: no "
    "side, and one of the two gives one class only, or both would be equivalent and one of them is not shown "
    "to know the label (knows_above_guessing); else inconclusive",
    "minimal_detectable_difference": "the smallest true difference found with probability 0.8 at this n",
    "power": "probability of finding a true difference of delta at this n",
}
Key = tuple[str, str]
"""(arm, pooling)."""


def comparisons(
    right: Mapping[Key, Shaped[np.ndarray, " n"]],
    groups: Int[np.ndarray, " n"],
    *,
    against: str,
    primary: Key,
    delta: float,
    outer: Int[np.ndarray, " n"] | None = None,
    knows: Mapping[Key, float | None] | None = None,
) -> list[Comparison]:
    """Every arm against `against` at the same pooling, with verdicts; Holm over all but the primary one.

    Args:
        right: By (arm, pooling), which units the arm gets right, or each unit's skill.
        groups: Group of each unit.
        against: The arm that all others are compared with.
        primary: The (arm, pooling) named before looking.
        delta: Differences below this are equivalent.
        outer: Outer fold of each unit; None: all were tested by one fit.
        knows: By (arm, pooling), `scores.above_guessing`; None: every arm knows something.
    """
    inflation = 1.0 if outer is None else SHARED_TRAINING
    rows = []
    for (arm, pooling), own in right.items():
        if arm != against:
            other = (against, pooling) if (against, pooling) in right else (against, primary[1])
            row = Comparison(
                arm=arm,
                pooling=pooling,
                against=against,
                primary=(arm, pooling) == primary,
                **vars(paired(own, right[other], groups, delta=delta, inflation=inflation)),
                p_resampled=None if outer is None else _resampled(own, right[other], outer),
            )
            rows.append((row, () if knows is None else (knows[arm, pooling], knows[other])))
    said = iter(adjusted([row for row, _ in rows if not row.primary]))
    out = []
    for row, known in rows:
        if not row.primary:
            row = replace(row, **next(said)._asdict())
        out.append(replace(row, verdict=informed(row.verdict, known)))
    return out


def adjusted(rows: Sequence[Paired]) -> list[Said]:
    """What comparisons that are looked at together allow to say, each as one of several."""
    tested = [Tested(row.low, row.high, row.n_groups, row.p) for row in rows]
    return family(tested, delta=rows[0].delta) if rows else []


def informed(verdict: str, knows: Sequence[float | None]) -> str:
    """The verdict, unless it speaks of a predictor that knows nothing.

    Args:
        verdict: What interval and tests allow to say.
        knows: Of every predictor compared, `scores.above_guessing`.
    """
    silent = verdict == "inconclusive" and None in knows
    guess = verdict == "equivalent" and any(low is None or low <= 0 for low in knows)
    return NO_INFORMATION if silent or guess else verdict


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
    inflation: float = 1.0,
) -> Paired:
    """One comparison: difference, interval, test, n, power and verdict; `inflation` as in `compare`."""
    found = (compare if a.dtype == bool else compare_values)(a, b, groups, delta=delta, inflation=inflation)
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
