"""Calibration of the comparison engine: simulations in which the truth is known."""

from __future__ import annotations

import numpy as np

from thoughtlens.core import Json
from thoughtlens.evals import compare_cells, probes
from thoughtlens.numerics import Interval, bootstrap_mean, compare, wilson
from thoughtlens.ops.bench.limits import require_positive

N_UNITS, N_FEATURES, N_CLASSES = 150, 12, 3
GRID = (1e-3, 1e-2, 1e-1)


def bench_calibration(*, runs: int = 400, coverage_runs: int = 1000, seed: int = 0) -> Json:
    """Count how often the comparison engine's tests and intervals err."""
    require_positive(runs=runs, coverage_runs=coverage_runs)
    return {
        "null_rejections": null_rejections(runs, seed=seed),
        "coverage": coverage(coverage_runs, seed=seed),
        "leak": leak(seed=seed),
    }


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
        found = compare(a, b, units, seed=run).difference
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
        hits["paired_bootstrap"] += _holds(compare(a, b, groups, seed=run).difference, 0.07)
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
