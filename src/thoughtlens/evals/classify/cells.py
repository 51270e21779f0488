"""Which cell knows the label, and which poolings lose it: tests that know how many cells were tried."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from thoughtlens.evals.classify.config import CELL_ARMS, SELECTED, SELECTED_CELL
from thoughtlens.evals.classify.records import CellRow, CellTests, Place, PoolingLoss
from thoughtlens.evals.classify.run import Found, Task, known
from thoughtlens.evals.probing import comparisons, scores
from thoughtlens.evals.probing.cells import PENALTY, CellTest, compare_cells
from thoughtlens.evals.probing.features import association, one_hot
from thoughtlens.evals.probing.matrices import Matrix
from thoughtlens.evals.probing.samples import ThoughtSamples
from thoughtlens.numerics import SHARED_TRAINING, Said

ALPHA = 0.05
DEFINITIONS = {
    "screening_score": "out-of-fold accuracy (R squared) of one cell by ridge regression of the classes, "
    f"fixed penalty of {PENALTY:g} a feature; for ranking cells and for the permutations",
    "p_any": "share of label permutations whose best cell scores as high: does it know the label at all",
    "p_best": "share of exchanges whose best cell scores as high, each group's results being dealt to "
    "the cells at random: does this cell know it more than cells do on average",
}


def cell_tests(task: Task, samples: ThoughtSamples, found: Found) -> dict[str, CellTests]:
    """For each arm that is scored cell by cell: the tests, what they allow to say, and what poolings lose."""
    units, cfg = task.units, task.cfg
    cells = [(c[0], c[1]) for c in samples.cover.cells]
    out = {}
    for arm in CELL_ARMS:
        parts = samples.parts(arm)
        test = compare_cells(
            parts, units.y, units.groups, task.folds,
            n_classes=units.n_classes, n_permutations=cfg.n_permutations, seed=cfg.seed,
        )  # fmt: skip
        hook, thought = cells[int(test.score.argmax())]
        numbers = zip(cells, test.score.tolist(), test.p_any.tolist(), test.p_best.tolist(), strict=True)
        out[arm] = CellTests(
            by_cell=[
                CellRow(hook_name=h, thought_idx=t, screening_score=score, p_any=p_any, p_best=p_best)
                for (h, t), score, p_any, p_best in numbers
            ],
            best=Place(hook_name=hook, thought_idx=thought),
            null_max_95=test.null_max,
            n_permutations=test.n_permutations,
            n=len(units.y),
            says=_sentence(test, cells),
            poolings=_poolings(task, samples, found, arm, parts[int(test.score.argmax())]),
        )
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
    task: Task, samples: ThoughtSamples, found: Found, arm: str, best_cell: Matrix
) -> list[PoolingLoss]:
    """Every pooling against the best cell, chosen inside the training folds; and why one loses."""
    units, cfg = task.units, task.cfg
    best = found.probes.get((arm, SELECTED_CELL))
    if best is None:
        return []
    targets, everyone = one_hot(units.y, units.n_classes), np.ones(len(units.y), bool)

    def strongest(X: Any) -> float:
        return float(association(X, targets, everyone, classes=units.n_classes is not None).max())

    alone = strongest(best_cell)
    rows = []
    for (whose, name), p in found.probes.items():
        if whose == arm and name not in (SELECTED, SELECTED_CELL) and not name.startswith("cell:"):
            own, other = (scores.unit_scores(one, units.y) for one in (p, best))
            against_best = comparisons.paired(
                own, other, units.groups, delta=cfg.delta, inflation=SHARED_TRAINING
            )
            row = PoolingLoss(
                pooling=name,
                **vars(against_best),
                strongest_in_cell=alone,
                strongest_in_pooling=None
                if samples.poolings[name].weighted
                else strongest(next(iter(samples.features(arm, [name])))[1]),
                says=None,
            )
            rows.append((row, (p, best)))
    return [
        _judged(row, said, [known(task, p) for p in both], n=len(samples.cover.cells))
        for (row, both), said in zip(rows, comparisons.adjusted([row for row, _ in rows]), strict=True)
    ]


def _judged(row: PoolingLoss, said: Said, knows: list[float | None], n: int) -> PoolingLoss:
    row = replace(row, p_holm=said.p_holm, verdict=comparisons.informed(said.verdict, knows))
    lost = row.verdict == "worse" and row.high < -row.delta
    return replace(row, says=_why(row, n) if lost else None)


def _why(row: PoolingLoss, n_cells: int) -> str:
    lost = f"{row.pooling} loses {-100 * row.difference:.1f} points to the best cell"
    within, after = row.strongest_in_cell, row.strongest_in_pooling
    if after is None:
        return f"{lost}: its weights did not settle on that cell."
    if after >= 0.9 * within:
        return (
            f"{lost}: its strongest feature says as much ({after:.0%} of the label's variance, there "
            f"{within:.0%}), so it is the number of features, for this n, that costs."
        )
    return (
        f"{lost}: the strongest feature explains {within:.0%} of the label's variance there and {after:.0%} "
        f"after pooling, where it is mixed with {n_cells - 1} other cells."
    )
