"""Which way a thought's effect takes: through the state it feeds back, or the keys and values it leaves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped

from thoughtlens.interventions.effects.subject import Problems
from thoughtlens.interventions.intervene.records import EffectRow, RouteRow
from thoughtlens.numerics import Interval, bootstrap_ratio, proportion

DEFINITIONS = {
    "moved_*": "share of problems whose answer becomes the twin's when this part of the thought is the "
    "twin's: state (thought_out), keys, values, kv (keys and values of every block), both (state and kv)",
    "state_first": "moved_state / moved_both: the state swapped, keys and values kept; shares have cluster "
    "bootstrap intervals, moved_* Wilson's (by group)",
    "state_last": "(moved_both - moved_kv) / moved_both: what the state adds to swapped keys and values",
    "kv_first": "moved_kv / moved_both",
    "kv_last": "(moved_both - moved_state) / moved_both",
    "carried_by": "state or kv: both of its shares above 0.5 with their whole intervals; either: each alone "
    "does it; together: neither alone does; nothing: moved_both not above 0.01 with its interval; else mixed",
}
SHARES = ("state_first", "state_last", "kv_first", "kv_last")
PARTS = ("state", "keys", "values", "kv", "both")
LEAST = 0.01


def route_shares(
    rows: Sequence[EffectRow], answers: pa.Table, problems: Problems, seed: int
) -> list[RouteRow]:
    """How often each part of each thought alone brings the twin's answer, and the shares in both orders."""
    row_of, kind = answers["row"].to_numpy(), np.array(answers["class"].to_pylist())
    moved: dict[int, dict[str, np.ndarray]] = {}
    for row in rows:
        assert row.thought_idx is not None and row.arm is not None
        here = kind[row_of == row.row] == "corrupted"
        moved.setdefault(row.thought_idx, {})[row.arm] = here.astype(float)
    return [_route(thought, arms, problems.groups, seed) for thought, arms in moved.items()]


def _route(
    thought: int, arms: dict[str, np.ndarray], groups: Shaped[np.ndarray, " problems"], seed: int
) -> RouteRow:
    state_is_read = "state" in arms
    arms = {"state": np.zeros(len(groups))} | arms
    intervals = {name: proportion(arms[name], groups) for name in PARTS}
    numbers: dict[str, float | None] = {}
    for name, i in intervals.items():
        numbers |= {f"moved_{name}": i.estimate, f"moved_{name}_low": i.low, f"moved_{name}_high": i.high}
    both, state, kv = arms["both"], arms["state"], arms["kv"]
    carried_by = "nothing"
    if intervals["both"].low > LEAST:
        tops = (state, both - kv, kv, both - state)
        shares = [bootstrap_ratio(top, both, groups, seed=seed) for top in tops]
        for name, share in zip(SHARES, shares, strict=True):
            numbers |= {name: share.estimate, f"{name}_low": share.low, f"{name}_high": share.high}
        carried_by = _carrier(*shares)
    blank: dict[str, None] = {f"{name}{end}": None for name in SHARES for end in ("", "_low", "_high")}
    return RouteRow.from_json(
        {"thought_idx": thought, "state_is_read": state_is_read, "n": len(groups)}
        | blank | numbers | {"carried_by": carried_by}
    )  # fmt: skip


def _carrier(state_first: Interval, state_last: Interval, kv_first: Interval, kv_last: Interval) -> str:
    for part, shares in (("state", (state_first, state_last)), ("kv", (kv_first, kv_last))):
        if min(share.low for share in shares) > 0.5:
            return part
    if min(state_first.low, kv_first.low) > 0.5:
        return "either"
    if max(state_first.high, kv_first.high) < 0.5:
        return "together"
    return "mixed"
