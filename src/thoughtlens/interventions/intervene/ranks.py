"""How few directions of a state carry what it is needed for: keep-only and remove curves, effective rank."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped

from thoughtlens.interventions.effects.subject import Problems
from thoughtlens.interventions.intervene.records import EffectRow, RankRow
from thoughtlens.numerics import bootstrap_mean, bootstrap_ratio

Ints = Shaped[np.ndarray, " n"]
Curves = dict[tuple[str, int | None], np.ndarray]
"""By edit and number of directions, which problems are right."""
ENOUGH = 0.9
KEEP, REMOVE, MEAN = "rank_keep", "rank_remove", "rank_mean"
DEFINITIONS = {
    "cost_of_mean": "accuracy untouched minus accuracy with the mean of training problems in the state's "
    "place; 95 % cluster bootstrap",
    "kept": "(accuracy with the mean and k directions of x - mean, minus that with the mean) / cost_of_mean: "
    "the share of the effect that these directions hold alone; intervals by resampling groups",
    "removed": "(accuracy untouched minus that without k directions of x - mean) / cost_of_mean: the share "
    "of the effect that is lost with them",
    "keep_rank, remove_rank": f"effective causal rank: the smallest k with kept, or removed, of at least "
    f"{ENOUGH:g}; null: none of the ks, or the mean costs nothing that could be shown (its interval holds 0)",
}


def rank_rows(rows: Sequence[EffectRow], answers: pa.Table, problems: Problems, seed: int) -> list[RankRow]:
    """One row for each place and kind of directions."""
    row_of, clean = answers["row"].to_numpy(), np.array(answers["class"].to_pylist()) == "clean"
    untouched = clean[row_of == -1].astype(float)
    found = []
    for _, here in groupby(rows, key=lambda row: (row.scope, row.site, row.layer, row.thought_idx)):
        own = list(here)
        mean = next(clean[row_of == row.row].astype(float) for row in own if row.edit == MEAN)
        for arm in dict.fromkeys(row.arm for row in own if row.arm is not None):
            edits = {
                (row.edit, row.rank): clean[row_of == row.row].astype(float) for row in own if row.arm == arm
            }
            found.append(_row(own[0], arm, (untouched, mean, edits), problems.groups, seed))
    return found


def _row(
    at: EffectRow,
    arm: str,
    right: tuple[np.ndarray, np.ndarray, dict],
    groups: Shaped[np.ndarray, " n"],
    seed: int,
) -> RankRow:
    untouched, mean, edits = right
    cost = bootstrap_mean(untouched - mean, groups, seed=seed)
    ks = sorted({rank for _, rank in edits})
    curves: dict[str, list[float | None]] = {
        f"{name}{end}": [] for name in ("kept", "removed") for end in ("", "_low", "_high")
    }
    for k in ks:
        for name, top in (("kept", edits[KEEP, k] - mean), ("removed", untouched - edits[REMOVE, k])):
            share = bootstrap_ratio(top, untouched - mean, groups, seed=seed) if cost.low > 0 else None
            curves[name].append(share and share.estimate)
            curves[f"{name}_low"].append(share and share.low)
            curves[f"{name}_high"].append(share and share.high)
    ranks = {
        name: next((k for k, share in zip(ks, curves[name], strict=True) if (share or 0) >= ENOUGH), None)
        for name in ("kept", "removed")
    }
    return RankRow(
        scope=at.scope, site=at.site, layer=at.layer, thought_idx=at.thought_idx, arm=arm, n=at.n,
        n_groups=at.n_groups, cost_of_mean=cost.estimate, cost_of_mean_low=cost.low,
        cost_of_mean_high=cost.high, keep_rank=ranks["kept"], remove_rank=ranks["removed"], ks=ks, **curves,
    )  # fmt: skip
