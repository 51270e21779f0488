"""What a probe that was fitted under one condition knows under another, beside probes fitted there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thoughtlens.core import Parts
from thoughtlens.evals.classify.records import Conditions, TransferRow
from thoughtlens.evals.classify.run import Found, Key, Task, known, probe_all, scored
from thoughtlens.evals.probing import comparisons, scores
from thoughtlens.evals.probing.menu import ARMS
from thoughtlens.evals.probing.probes import Probe
from thoughtlens.evals.probing.records import ClassScores
from thoughtlens.numerics import NO_INFORMATION, SHARED_TRAINING


def conditions(task: Task, found: Found, parts: Parts) -> Conditions:
    """The probes that were fitted under the other condition against those within each of the two."""
    between = task.transfer
    assert between is not None
    plain = replace(task, cfg=task.cfg.model_copy(update={"per_cell": False}))
    there = plain.between(between.scored, between.scored, "within_test.")
    home = plain.between(between.fitted, between.fitted, "within_train.")
    ceilings, own = probe_all(there, parts), probe_all(home, parts)
    keys = [
        (arm, name)
        for arm, name in found.probes
        if name in (task.cfg.primary_pooling, "none") and not ARMS[arm].permuted
    ]
    rows = [_row(key, (task, there, home), (found, ceilings, own)) for key in keys]
    judged = []
    for key, row, said in zip(keys, rows, comparisons.adjusted(rows), strict=True):
        word = _word(said.verdict, known(task, found.probes[key]), known(there, ceilings.probes[key]))
        judged.append(replace(row, **said._asdict(), carries_over=word))
    groups = between.every.groups
    return Conditions(
        train_where=list(task.cfg.train_where),
        test_where=list(task.cfg.test_where),
        n_train=int(between.fitted.sum()),
        n_train_groups=len(np.unique(groups[between.fitted])),
        n_test=int(between.scored.sum()),
        n_test_groups=len(np.unique(groups[between.scored])),
        n_both=int((between.fitted & between.scored).sum()),
        rows=judged,
    )


def _row(key: Key, tasks: tuple[Task, Task, Task], found: tuple[Found, Found, Found]) -> TransferRow:
    (task, *_), probes = tasks, [one.probes[key] for one in found]
    score, there, home = (_score(own, p) for own, p in zip(tasks, probes, strict=True))
    right, ceiling = (scores.unit_scores(p, task.units.y) for p in probes[:2])
    delta = task.cfg.delta
    against = comparisons.paired(right, ceiling, task.units.groups, delta=delta, inflation=SHARED_TRAINING)
    return TransferRow(
        **vars(against), arm=key[0], pooling=key[1],
        score=score[0], score_low=score[1], score_high=score[2],
        within_test=there[0], within_test_low=there[1], within_test_high=there[2],
        within_train=home[0], within_train_low=home[1], within_train_high=home[2],
        p_holm=1.0, carries_over="",
    )  # fmt: skip


def _score(task: Task, p: Probe) -> tuple[float, float, float]:
    found = scored(task, p, task.units.y)
    value = found.accuracy if isinstance(found, ClassScores) else found.r2
    return value, found.low, found.high


def _word(verdict: str, knows: float | None, ceiling: float | None) -> str:
    """`carries_over` of `conditions.DEFINITIONS`."""
    if ceiling is None or ceiling <= 0:
        return NO_INFORMATION
    if verdict in ("equivalent", "better"):
        return "whole"
    if verdict == "worse":
        return "not at all" if knows is None or knows <= 0 else "in part"
    return verdict
