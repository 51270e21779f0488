"""Which way a pass's effect takes: through the state it feeds back, or the keys and values it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from thoughtlens.interventions.subject import Problems
from thoughtlens.numerics.stats.intervals import bootstrap_ratio, wilson

DEFINITIONS = {
    "moved_*": "share of problems whose answer becomes the twin's when this part of the pass is the twin's: "
    "state (thought_out), keys, values, kv (keys and values of every block), both (state and kv)",
    "state_first": "moved_state / moved_both: the state swapped, keys and values kept; shares have cluster "
    "bootstrap intervals, moved_* Wilson's",
    "state_last": "(moved_both - moved_kv) / moved_both: what the state adds to swapped keys and values",
    "kv_first": "moved_kv / moved_both",
    "kv_last": "(moved_both - moved_state) / moved_both",
    "carried_by": "state or kv: both of its shares above 0.5 with their whole intervals; either: each alone "
    "does it; together: neither alone does; nothing: moved_both not above 0.01 with its interval; else mixed",
}
SHARES = ("state_first", "state_last", "kv_first", "kv_last")
LEAST = 0.01


def route_shares(
    rows: Sequence[dict[str, Any]], answers: pa.Table, problems: Problems, seed: int
) -> list[dict[str, Any]]:
    """One row a pass: how often each part alone brings the twin's answer, and the shares in both orders."""
    row_of, kind = answers["row"].to_numpy(), np.array(answers["class"].to_pylist())
    moved = {row["row"]: kind[row_of == row["row"]] == "corrupted" for row in rows}
    found = []
    for step in dict.fromkeys(row["thought_idx"] for row in rows):
        arms = {row["arm"]: moved[row["row"]].astype(float) for row in rows if row["thought_idx"] == step}
        by_construction = "state" not in arms
        arms.setdefault("state", np.zeros(len(problems.questions)))
        found.append(
            {"thought_idx": step, "state_is_read": not by_construction, **_pass(arms, problems.groups, seed)}
        )
    return found


def _pass(arms: dict[str, np.ndarray], groups: Sequence[str], seed: int) -> dict[str, Any]:
    names = ("state", "keys", "values", "kv", "both")
    intervals = [wilson(int(arms[name].sum()), len(groups)) for name in names]
    row: dict[str, Any] = {"n": len(groups)}
    for name, i in zip(names, intervals, strict=True):
        row |= {f"moved_{name}": i.estimate, f"moved_{name}_low": i.low, f"moved_{name}_high": i.high}
    both, state, kv = arms["both"], arms["state"], arms["kv"]
    tops = dict(zip(SHARES, (state, both - kv, kv, both - state), strict=True))
    if not intervals[-1].low > LEAST:
        blank = [f"{name}{end}" for name in SHARES for end in ("", "_low", "_high")]
        return row | dict.fromkeys(blank) | {"carried_by": "nothing"}
    for name, top in tops.items():
        share = bootstrap_ratio(top, both, groups, seed=seed)
        row |= {name: share.estimate, f"{name}_low": share.low, f"{name}_high": share.high}
    return row | {"carried_by": _carrier(row)}


def _carrier(row: dict[str, Any]) -> str:
    for part in ("state", "kv"):
        if min(row[f"{part}_first_low"], row[f"{part}_last_low"]) > 0.5:
            return part
    if min(row["state_first_low"], row["kv_first_low"]) > 0.5:
        return "either"
    if max(row["state_first_high"], row["kv_first_high"]) < 0.5:
        return "together"
    return "mixed"
