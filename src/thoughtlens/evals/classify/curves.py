"""Accuracy at k: how many latents, principal components or neurons it takes, and which latents these are."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from thoughtlens.evals.classify.run import Found, Samples
from thoughtlens.evals.probing import scores
from thoughtlens.evals.probing.samples import Units

N_LISTED = 20
DEFINITIONS = {
    "k": "number of features: those that alone explain most of the label's variance in the training fold",
    "n_folds": "outer folds in which the feature was among the largest k; the list is by mean rank",
}


def curves(units: Units, found: Found, split: str, seed: int) -> list[dict[str, Any]]:
    """Score at every k of the arms that choose features."""
    rows = []
    for (arm, pooling), at_k in found.at_k.items():
        for k, p in at_k.probes.items():
            if units.classes is None:
                row = scores.skill(units.y, p.pred, units.groups, seed=seed)
            else:
                row = scores.score(units.y, p.pred, p.proba, units.groups, seed=seed)
            rows.append({"arm": arm, "pooling": pooling, "k": k, "split": split, **row})
    return rows


def chosen(found: Found, samples: Samples) -> list[dict[str, Any]]:
    """The features that were chosen most often, first ones first, with where each comes from."""
    rows = []
    for (arm, pooling), at_k in found.at_k.items():
        times: Counter[int] = Counter()
        ranks: Counter[int] = Counter()
        for own in at_k.chosen:
            times.update(own.tolist())
            ranks.update({int(column): rank for rank, column in enumerate(own)})
        n_folds = len(at_k.chosen)
        missed = at_k.chosen.shape[1]
        order = sorted(times, key=lambda c: (ranks[c] + missed * (n_folds - times[c])) / n_folds)
        for rank, column in enumerate(order[:N_LISTED]):
            origin = samples.column(arm, pooling, column)
            rows.append({"arm": arm, "pooling": pooling, "rank": rank, **origin, "n_folds": times[column]})
    return rows


def fewest(rows: list[dict[str, Any]], metric: str) -> dict[str, int]:
    """For each arm and pooling, the fewest features that reach 95 % of the curve's highest score."""
    out: dict[str, int] = {}
    for arm, pooling in dict.fromkeys((r["arm"], r["pooling"]) for r in rows):
        own = [r for r in rows if (r["arm"], r["pooling"]) == (arm, pooling)]
        top = np.max([r[metric] for r in own])
        out[f"{arm} {pooling}"] = min(r["k"] for r in own if r[metric] >= 0.95 * top)
    return out
