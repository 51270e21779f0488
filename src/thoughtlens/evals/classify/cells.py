"""Which cell knows the label, and which poolings lose it: tests that know how many cells were tried."""

from __future__ import annotations

from typing import Any

import numpy as np

from thoughtlens.evals.classify.config import CELL_ARMS, SELECTED, SELECTED_CELL, ClassifyConfig
from thoughtlens.evals.classify.run import Found
from thoughtlens.evals.classify.tables import unit_scores
from thoughtlens.evals.probing import comparisons
from thoughtlens.evals.probing.cells import PENALTY, CellTest, compare_cells
from thoughtlens.evals.probing.features import association, one_hot
from thoughtlens.evals.probing.matrices import Matrix
from thoughtlens.evals.probing.probes import Folds
from thoughtlens.evals.probing.samples import ThoughtSamples, Units

ALPHA = 0.05
DEFINITIONS = {
    "screening_score": "out-of-fold accuracy (R squared) of one cell by ridge regression of the classes, "
    f"fixed penalty of {PENALTY:g} a feature; for ranking cells and for the permutations",
    "p_any": "share of label permutations whose best cell scores as high: does it know the label at all",
    "p_best": "share of exchanges whose best cell scores as high, each group's results being dealt to "
    "the cells at random: does this cell know it more than cells do on average",
}


def cell_tests(
    cfg: ClassifyConfig, units: Units, folds: Folds, samples: ThoughtSamples, found: Found
) -> dict[str, Any]:
    """For each arm that is scored cell by cell: the tests, what they allow to say, and what poolings lose."""
    out = {}
    for arm in CELL_ARMS:
        cells = [(c[0], c[1]) for c in samples.cover.cells]
        parts = samples.parts(arm)
        test = compare_cells(
            parts, units.y, units.groups, folds,
            n_classes=units.n_classes, n_permutations=cfg.n_permutations, seed=cfg.seed,
        )  # fmt: skip
        best = int(test.score.argmax())
        out[arm] = {
            "cells": [
                {
                    "hook_name": hook,
                    "thought_idx": thought,
                    "screening_score": float(test.score[i]),
                    "p_any": float(test.p_any[i]),
                    "p_best": float(test.p_best[i]),
                }
                for i, (hook, thought) in enumerate(cells)
            ],
            "best": {"hook_name": cells[best][0], "thought_idx": cells[best][1]},
            "null_max_95": test.null_max,
            "n_permutations": test.n_permutations,
            "n": len(units.y),
            "says": _sentence(test, cells),
            "poolings": _poolings(cfg, units, samples, found, arm, parts, test),
        }
    return out


def _sentence(test: CellTest, cells: list[tuple[str, int | None]]) -> str:
    best, n = int(test.score.argmax()), len(cells)
    name = f"{cells[best][0]}, thought {cells[best][1]}"
    score = f"{test.score[best]:.1%}"
    if test.p_any[best] > ALPHA:
        return (
            f"The best of {n} cells ({name}, {score}) is not above what the best reaches with permuted "
            f"labels (p = {test.p_any[best]:.3f}): no cell is shown to know the label."
        )
    ahead = int((test.p_best <= ALPHA).sum())
    if not ahead:
        return (
            f"Cells know the label (best {name}, {score}, p = {test.p_any[best]:.3f} over {n} cells), but "
            f"none more than cells do on average (p = {test.p_best[best]:.3f}): no localisation is shown."
        )
    return (
        f"{ahead} of {n} cells know the label more than cells do on average, first {name} ({score}, "
        f"p = {test.p_best[best]:.3f} over {n} cells)."
    )


def _poolings(
    cfg: ClassifyConfig,
    units: Units,
    samples: ThoughtSamples,
    found: Found,
    arm: str,
    parts: list[Matrix],
    test: CellTest,
) -> list[dict[str, Any]]:
    """Every pooling against the best cell, chosen inside the training folds; and why one loses."""
    best = found.probes.get((arm, SELECTED_CELL))
    if best is None:
        return []
    targets, everyone = one_hot(units.y, units.n_classes), np.ones(len(units.y), bool)

    def strongest(X: Any) -> float:
        return float(association(X, targets, everyone, classes=units.n_classes is not None).max())

    alone = strongest(parts[int(test.score.argmax())])
    rows = []
    for (own, name), p in found.probes.items():
        if own == arm and name not in (SELECTED, SELECTED_CELL) and not name.startswith("cell:"):
            row = comparisons.paired(
                unit_scores(p, units.y), unit_scores(best, units.y), units.groups,
                delta=cfg.delta, seed=cfg.seed,
            )  # fmt: skip
            row = {"pooling": name, **row, "strongest_in_cell": alone}
            if not samples.poolings[name].weighted:
                row["strongest_in_pooling"] = strongest(next(iter(samples.features(arm, [name])))[1])
            row["says"] = _why(row, len(parts)) if row["high"] < -cfg.delta else None
            rows.append(row)
    return rows


def _why(row: dict[str, Any], n_cells: int) -> str:
    lost = f"{row['pooling']} loses {-100 * row['difference']:.1f} points to the best cell"
    if "strongest_in_pooling" not in row:
        return f"{lost}: its weights did not settle on that cell."
    within, after = row["strongest_in_cell"], row["strongest_in_pooling"]
    if after >= 0.9 * within:
        return (
            f"{lost}: its strongest feature says as much ({after:.0%} of the label's variance, there "
            f"{within:.0%}), so it is the number of features, for this n, that costs."
        )
    return (
        f"{lost}: the strongest feature explains {within:.0%} of the label's variance there and {after:.0%} "
        f"after pooling, where it is mixed with {n_cells - 1} other cells."
    )
