"""Calibration of the comparison engine: simulations in which the truth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.core import Json
from thoughtlens.evals import compare_cells, comparisons, probes, scores
from thoughtlens.numerics import (
    DELTA,
    SHARED_TRAINING,
    Interval,
    bootstrap_mean,
    compare,
    mean_by_clusters,
    proportion,
    wilson,
)
from thoughtlens.ops.bench.limits import require_positive

N_UNITS, N_FEATURES, N_CLASSES = 150, 12, 3
GRID = (1e-3, 1e-2, 1e-1)
WIDTH = 20
"""Features of an arm whose verdicts are counted."""
FOLDS = 5
"""Outer folds of `classify`, and groups that a class needs."""
SIDES = ("better", "worse")


class Case(NamedTuple):
    """Data sets of one kind, with default settings of everything that judges them."""

    n: int
    share: float = 0.5
    """Of the units that are of the second class; 0.5: exactly, otherwise on average."""
    copies: int = 1
    """Near copies of every unit, in one group."""
    arms: int = 2
    strength: tuple[float, float] = (0.0, 0.0)
    """Half the distance between the classes' means along one feature, of the first arm and of the others."""


CASES = {
    f"n={n}, {100 * (1 - share):.0f}/{100 * share:.0f}, copies={copies}": Case(n, share, copies)
    for n in (40, 120, 600)
    for share in (0.5, 0.1)
    for copies in (1, 4)
} | {
    "n=120, 6 arms": Case(120, arms=6),
    "n=600, 10 points": Case(600, strength=(0.68, 0.4)),
}


class Judged(NamedTuple):
    """What is said of one data set."""

    refused: int
    """Draws before it with a class in too few groups, which `classify` refuses."""
    verdict: str
    """On the first arm, named before looking."""
    others: list[str]
    """On the further arms, adjusted for their number."""
    accuracy: list[tuple[float, float, float]]
    """Of each arm, with its interval."""


def bench_calibration(*, runs: int = 400, coverage_runs: int = 1000, seed: int = 0) -> Json:
    """Count how often the comparison engine's tests, intervals and verdicts err."""
    require_positive(runs=runs, coverage_runs=coverage_runs)
    return {
        "null_rejections": null_rejections(runs, seed=seed),
        "coverage": coverage(coverage_runs, seed=seed),
        "leak": leak(seed=seed),
        "verdicts": {
            name: verdict_rates(judge(case, range(runs), seed=seed)) for name, case in CASES.items()
        },
    }


def judge(case: Case, runs: Sequence[int], *, seed: int = 0) -> list[Judged]:
    """Verdicts of `classify` on data sets of a case, one for each number in `runs`.

    Empty where 200 draws have no class in enough groups.
    """
    found = []
    for run in runs:
        rng = np.random.default_rng((seed, run, case.n, case.copies, round(1000 * case.share)))
        y, groups, refused = _labels(case, rng)
        if y is None:
            return []
        folds = probes.make_folds(y, groups, n_splits=FOLDS, seed=run)
        fitted = {
            (f"arm {i}" if i else "raw", "mean"): probes.probe(
                _features(case, y, groups, i, rng), y, folds, n_classes=2
            )
            for i in reversed(range(case.arms))
        }
        rows = comparisons.comparisons(
            {key: p.pred == y for key, p in fitted.items()},
            groups,
            against="raw",
            primary=("arm 1", "mean"),
            delta=DELTA,
            outer=folds.outer,
            knows={key: _known(p, y, groups, folds) for key, p in fitted.items()},
        )
        found.append(
            Judged(
                refused,
                next(row.verdict for row in rows if row.primary),
                [row.verdict for row in rows if not row.primary],
                [_accuracy(p, y, groups) for p in fitted.values()],
            )
        )
    return found


def verdict_rates(found: Sequence[Judged]) -> Json:
    """How often a side is named, and accuracy's interval holds the mean accuracy over all data sets."""
    if not found:
        return {"runs": 0, "refused": "every draw: a class is in too few groups"}
    accuracy = np.array([one.accuracy for one in found])
    truth = accuracy[:, :, 0].mean(0)
    holds = (accuracy[:, :, 1] <= truth) & (truth <= accuracy[:, :, 2])
    out: Json = {
        "runs": len(found),
        "refused": sum(one.refused for one in found),
        "verdicts": dict(Counter(one.verdict for one in found)),
        "side": _rate(sum(one.verdict in SIDES for one in found), len(found)),
        "accuracy": truth.tolist(),
        "interval_holds": [_rate(int(own.sum()), len(found)) for own in holds.T],
    }
    if found[0].others:
        named = sum(any(word in SIDES for word in one.others) for one in found)
        out["side_of_others"] = _rate(named, len(found))
    return out


def replications(case: Case, runs: Sequence[int], *, seed: int = 0) -> Json:
    """How often a plain t-test finds the difference between two arms, over as many fresh data sets as folds.

    Each is as large as the case's and is split into training and test units once: what the same number of
    fits would find if nothing were shared between them.
    """
    hits, gaps = 0, []
    for run in runs:
        own = []
        for fold in range(FOLDS):
            rng = np.random.default_rng((seed, run, fold, 3))
            y, groups, _ = _labels(case, rng)
            assert y is not None
            folds = probes.make_folds(y, groups, n_splits=FOLDS, seed=run)
            test = folds.outer == 0
            a, b = (
                probes.probe(_features(case, y, groups, i, rng), y, folds, n_classes=2, only=(0,)).pred == y
                for i in (1, 0)
            )
            own.append(float(a[test].mean() - b[test].mean()))
        gaps.append(float(np.mean(own)))
        found = mean_by_clusters(np.array(own), np.arange(FOLDS))
        hits += not found.low <= 0 <= found.high
    return {"runs": len(gaps), "difference": float(np.mean(gaps)), **_rate(hits, len(gaps))}


def _labels(
    case: Case, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " n"] | None, Int[np.ndarray, " n"], int]:
    """Labels and groups, and how many draws before had a class in too few groups."""
    n_groups = case.n // case.copies
    groups = np.arange(n_groups).repeat(case.copies)
    for refused in range(200):
        y = (
            rng.permutation(np.arange(n_groups) % 2)
            if case.share == 0.5
            else (rng.random(n_groups) < case.share).astype(int)
        )
        if np.bincount(y, minlength=2).min() >= FOLDS:
            return y.repeat(case.copies), groups, refused
    return None, groups, 200


def _features(
    case: Case, y: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"], arm: int, rng: np.random.Generator
) -> Float[np.ndarray, "n d"]:
    X = rng.normal(size=(groups[-1] + 1, WIDTH))[groups]
    X += 0.05 * (case.copies > 1) * rng.normal(size=X.shape)
    X[:, 0] += case.strength[0 if arm == 1 else 1] * (2 * y - 1)
    return X


def _known(p: probes.Probe, y: np.ndarray, groups: np.ndarray, folds: probes.Folds) -> float | None:
    return scores.above_guessing(y, p.pred, groups, classes=True, outer=folds.outer)


def _accuracy(p: probes.Probe, y: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    found = proportion(p.pred == y, groups, inflation=SHARED_TRAINING)
    return found.estimate, found.low, found.high


def null_rejections(runs: int, *, seed: int = 0) -> Json:
    """How often a 5 % test finds something in permuted labels.

    Two tests: the max-statistic over 6 cells (p of the best at or below 0.05), and a paired comparison of
    two representations that know nothing (its 95 % interval excludes 0). Every run draws features with a
    true signal and then shuffles the labels.
    """
    any_cell, paired = 0, 0
    for run in range(runs):
        rng = np.random.default_rng((seed, run))
        y = rng.integers(0, N_CLASSES, N_UNITS)
        parts = [rng.normal(size=(N_UNITS, N_FEATURES)) + np.eye(N_CLASSES, N_FEATURES)[y] for _ in range(6)]
        shuffled, units = rng.permutation(y), np.arange(N_UNITS)
        folds = probes.make_folds(shuffled, units, n_splits=3, n_inner=2, seed=run)
        test = compare_cells(
            parts, shuffled, units, folds, n_classes=N_CLASSES, n_permutations=99, seed=seed + 7 * run
        )
        any_cell += bool(test.p_any.min() <= 0.05)
        a, b = (
            probes.probe(X, shuffled, folds, n_classes=N_CLASSES, grid=GRID).pred == shuffled
            for X in parts[:2]
        )
        found = compare(a, b, units, inflation=SHARED_TRAINING).difference
        paired += not found.low <= 0 <= found.high
    return {
        "runs": runs,
        "n": N_UNITS,
        "best_cell": _rate(any_cell, runs),
        "paired_comparison": _rate(paired, runs),
    }


def coverage(runs: int, *, seed: int = 0) -> Json:
    """How often 95 % intervals hold the truth.

    Wilson and the paired Wald interval on 300 independent units; the cluster bootstrap of an accuracy and
    of a paired difference on 60 groups of 5 units whose accuracies differ from group to group.
    """
    hits = dict.fromkeys(("wilson", "paired", "bootstrap", "paired_bootstrap"), 0)
    truth, gap = 0.7, 0.06
    for run in range(runs):
        rng = np.random.default_rng((seed, run, 1))
        shared = rng.random(300)
        first, second = shared < truth, np.where(rng.random(300) < 0.3, rng.random(300), shared) < truth - gap
        hits["wilson"] += _holds(wilson(int(first.sum()), 300), truth)
        hits["paired"] += _holds(compare(first, second).difference, gap)
        level = np.clip(rng.beta(7, 3, 60), 0, 1).repeat(5)
        groups = np.arange(60).repeat(5)
        a = rng.random(300) < level
        b = rng.random(300) < level * 0.9
        hits["bootstrap"] += _holds(bootstrap_mean(a, groups, seed=run), 0.7)
        hits["paired_bootstrap"] += _holds(compare(a, b, groups).difference, 0.07)
    return {"runs": runs, **{name: _rate(n, runs) for name, n in hits.items()}}


def leak(*, n_groups: int = 60, copies: int = 10, seed: int = 0) -> Json:
    """Random labels of problems with many near copies, scored with the groups kept together and torn."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), copies)
    y = np.repeat(rng.permutation(np.arange(n_groups) % N_CLASSES), copies)
    X = np.repeat(rng.normal(size=(n_groups, 40)), copies, axis=0) + 0.05 * rng.normal(size=(len(y), 40))
    out: Json = {"n": len(y), "n_groups": n_groups, "chance": 1 / N_CLASSES}
    for name, by in (("grouped", groups), ("torn", np.arange(len(y)))):
        folds = probes.make_folds(y, by, n_splits=5, n_inner=2, seed=seed)
        right = probes.probe(X, y, folds, n_classes=N_CLASSES, grid=(0.1, 10.0)).pred == y
        found = bootstrap_mean(right, groups, seed=seed)
        out[name] = {"accuracy": found.estimate, "low": found.low, "high": found.high}
    return out


def _holds(interval: Interval, truth: float) -> bool:
    return bool(interval.low <= truth <= interval.high)


def _rate(k: int, runs: int) -> dict[str, float]:
    found = wilson(k, runs)
    return {"rate": found.estimate, "low": found.low, "high": found.high}
