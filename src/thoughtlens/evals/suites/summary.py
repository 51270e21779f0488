"""From single sets to the tables and the sums over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from thoughtlens.evals.probing import comparisons
from thoughtlens.evals.probing.records import Paired
from thoughtlens.evals.suites import ours, theirs
from thoughtlens.evals.suites.config import SuiteConfig
from thoughtlens.evals.suites.records import (
    AUCDifference,
    ComparisonRow,
    Counts,
    Mean,
    MeanDifference,
    OurProbe,
    OverSets,
    OwnOverSets,
    SetResult,
)
from thoughtlens.numerics import NO_INFORMATION, Said, Tested, bootstrap_mean, compare_values, family

ALPHA = 0.05
MIN_SETS = 5
"""Sets below which a mean has no interval: resampling so few says nothing of others."""
BEST = "best"
UNDECIDED = ("inconclusive", "equivalent")
PAIRED = tuple(one.name for one in fields(Paired))
DEFINITIONS = {
    "mean": "mean over the sets, every set counting the same; 95% interval: sets resampled, from 5 sets on",
    "best": "per set, the k with the best val_auc",
    "p_holm": "p adjusted over all sets (Holm 1979), one family for each arm; verdicts follow it",
    "n_better, n_worse": "sets on which the adjusted p is below 0.05, by the sign of the difference",
}


THEIRS, OURS = "sae-probes", "thoughtlens"
"""The two protocols."""


def comparison_rows(sets: Sequence[SetResult]) -> list[ComparisonRow]:
    """Rows of `comparisons.parquet`: every paired comparison of accuracy, p adjusted over the sets."""
    every = [(s.dataset, THEIRS, "sae", s.theirs.sae_minus_raw.accuracy) for s in sets]
    every += [(s.dataset, OURS, row.arm, row) for s in sets if s.ours for row in s.ours.comparisons]
    out: dict[tuple[str, str, str], ComparisonRow] = {}
    for both in dict.fromkeys((protocol, arm) for _, protocol, arm, _ in every):
        own = [(name, row) for name, protocol, arm, row in every if (protocol, arm) == both]
        for (name, row), said in zip(own, comparisons.adjusted([row for _, row in own]), strict=True):
            paired = {key: getattr(row, key) for key in PAIRED}
            paired["verdict"] = _kept(row.verdict, said)
            key = name, *both
            out[key] = ComparisonRow(
                dataset=name, protocol=both[0], arm=both[1], **paired, p_holm=said.p_holm
            )
    return [out[name, protocol, arm] for name, protocol, arm, _ in every]


def over_all(sets: Sequence[SetResult], delta: float) -> list[AUCDifference]:
    """Of each set, its difference of AUC with a verdict that knows how many sets there are."""
    own = [s.theirs.sae_minus_raw.auc for s in sets]
    said = family([Tested(d.low, d.high, d.n_groups or d.n) for d in own], delta=delta)
    return [
        replace(d, p_holm=one.p_holm, verdict=_kept(d.verdict, one)) for d, one in zip(own, said, strict=True)
    ]


def _kept(before: str, said: Said) -> str:
    """What a set allows to say as one of several; predictors that know nothing still do not."""
    return NO_INFORMATION if before == NO_INFORMATION and said.verdict in UNDECIDED else said.verdict


def over_sets(sets: Sequence[SetResult], compared: Sequence[ComparisonRow], cfg: SuiteConfig) -> OverSets:
    """Means over the sets under sae-probes' protocol, and what the differences allow to say."""
    scores: dict[str, list[float]] = {}
    for s in sets:
        for row in s.theirs.table:
            scores.setdefault(row.arm if row.k is None else f"k={row.k}", []).append(row.auc)
            if row.k == s.theirs.best_k:
                scores.setdefault(BEST, []).append(row.auc)
    said = Counter(one.verdict for one in over_all(sets, cfg.delta))
    return OverSets(
        auc={name: _mean(values, cfg.seed) for name, values in scores.items()},
        sae_minus_raw=replace(_difference(scores[BEST], scores["raw"], cfg), verdicts=dict(said)),
        accuracy=_counts([row for row in compared if row.protocol == THEIRS]),
    )


def own_over_sets(
    sets: Sequence[SetResult], compared: Sequence[ComparisonRow], cfg: SuiteConfig
) -> OwnOverSets | None:
    """The same under this project's protocol; None where it was left out."""
    by_arm: dict[str, dict[str, OurProbe]] = {}
    for s in sets:
        for row in s.ours.table if s.ours else ():
            by_arm.setdefault(row.arm, {})[s.dataset] = row
    if not by_arm:
        return None
    raw, against = by_arm["raw"], {}
    for arm, rows in by_arm.items():
        if arm != "raw":
            difference = _difference(
                [row.accuracy for row in rows.values()], [raw[name].accuracy for name in rows], cfg
            )
            own = [row for row in compared if (row.protocol, row.arm) == (OURS, arm)]
            against[arm] = replace(difference, **vars(_counts(own)))
    return OwnOverSets(
        arms={arm: ours.ARMS[arm] for arm in by_arm},
        accuracy={arm: _mean([r.accuracy for r in rows.values()], cfg.seed) for arm, rows in by_arm.items()},
        auc={arm: _mean([r.auc for r in rows.values()], cfg.seed) for arm, rows in by_arm.items()},
        against_raw=against,
    )


def headline(their: OverSets, own: OwnOverSets | None) -> dict[str, Mean]:
    """What a reader wants first."""
    shown = {
        "auc_sae_best_k": their.auc[BEST],
        "auc_raw": their.auc["raw"],
        "auc_sae_minus_raw": their.sae_minus_raw,
    }
    out = {name: replace(value, split="sae-probes test rows") for name, value in shown.items()}
    if own is not None:
        out["accuracy_sae_minus_raw"] = replace(own.against_raw["sae"], split="out of fold")
    return out


def definitions() -> dict[str, str]:
    """Of everything in the tables."""
    return {**ours.DEFINITIONS, **theirs.DEFINITIONS, **DEFINITIONS}


def _mean(values: Sequence[float], seed: int) -> Mean:
    low, high = _ends(values, seed)
    return Mean(value=float(np.mean(values)), low=low, high=high, n=len(values))


def _ends(values: Sequence[float], seed: int) -> tuple[float | None, float | None]:
    if len(values) < MIN_SETS:
        return None, None
    interval = bootstrap_mean(np.asarray(values), seed=seed)
    return interval.low, interval.high


def _difference(a: Sequence[float], b: Sequence[float], cfg: SuiteConfig) -> MeanDifference:
    """The mean difference over sets, with its verdict where there are enough."""
    if len(a) < MIN_SETS:
        return MeanDifference(value=float(np.subtract(a, b).mean()), n=len(a))
    found = compare_values(np.asarray(a), np.asarray(b), delta=cfg.delta)
    d = found.difference
    return MeanDifference(
        value=d.estimate, low=d.low, high=d.high, n=len(a), p=found.p, test=found.test, verdict=found.verdict
    )


def _counts(rows: Sequence[ComparisonRow]) -> Counts:
    """Sets by verdict, and how many differ after correction for their number."""
    sure = [row.difference for row in rows if row.p_holm < ALPHA]
    return Counts(
        verdicts=dict(Counter(row.verdict for row in rows)),
        n_better=sum(d > 0 for d in sure),
        n_worse=sum(d < 0 for d in sure),
    )
