"""Accuracy at k: how many latents, principal components or neurons it takes, and which latents these are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from thoughtlens.evals.classify.records import AtK, ChosenRow, ClassPoint, ValuePoint
from thoughtlens.evals.classify.run import Found, Task, scored
from thoughtlens.evals.probing.probes import Probe
from thoughtlens.evals.probing.records import ClassScores

N_LISTED = 20
DEFINITIONS = {
    "k": "number of features: those that alone explain most of the label's variance in the training fold",
    "n_folds": "outer folds in which the feature was among the largest k; the list is by mean rank",
}


def curves(task: Task, found: Found) -> list[ClassPoint | ValuePoint]:
    """Score at every k of the arms that choose features."""
    return [
        _point(task, p, AtK(arm=arm, pooling=pooling, k=k, split=task.seen.split))
        for (arm, pooling), own in found.at_k.items()
        for k, p in own.probes.items()
    ]


def _point(task: Task, p: Probe, at: AtK) -> ClassPoint | ValuePoint:
    score = scored(task, p, task.units.y)
    cls = ClassPoint if isinstance(score, ClassScores) else ValuePoint
    return cls(**vars(at), **vars(score))


def chosen(task: Task, found: Found) -> list[ChosenRow]:
    """The features that were chosen most often, first ones first, with where each comes from."""
    rows = []
    for (arm, pooling), at_k in found.at_k.items():
        times: Counter[int] = Counter()
        ranks: Counter[int] = Counter()
        for own in at_k.chosen:
            times.update(own.tolist())
            ranks.update({int(column): rank for rank, column in enumerate(own)})
        n_folds, missed = at_k.chosen.shape
        order = sorted(times, key=lambda c: (ranks[c] + missed * (n_folds - times[c])) / n_folds)
        for rank, column in enumerate(order[:N_LISTED]):
            origin = task.samples.column(arm, pooling, column)
            rows.append(ChosenRow(arm=arm, pooling=pooling, rank=rank, **vars(origin), n_folds=times[column]))
    return rows


def fewest(points: Sequence[ClassPoint | ValuePoint]) -> dict[str, int]:
    """For each arm and pooling, the fewest features that reach 95 % of the curve's highest score."""
    out: dict[str, int] = {}
    for arm, pooling in dict.fromkeys((p.arm, p.pooling) for p in points):
        own = {p.k: _height(p) for p in points if (p.arm, p.pooling) == (arm, pooling)}
        out[f"{arm} {pooling}"] = min(k for k, score in own.items() if score >= 0.95 * max(own.values()))
    return out


def _height(point: ClassPoint | ValuePoint) -> float:
    return point.accuracy if isinstance(point, ClassPoint) else point.r2
