"""What to look at first, and what to be warned of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thoughtlens.core import HookError
from thoughtlens.interventions.config import InterveneConfig

LOW_ACCURACY = 0.2


def headline(
    cfg: InterveneConfig, rows: Sequence[dict[str, Any]], routes: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The untouched accuracy, the edit of everything at once, and the place with the largest effect."""
    split, first = cfg.split, rows[0]
    numbers: dict[str, Any] = {
        "accuracy_untouched": {"value": first["accuracy_untouched"], "n": first["n"], "split": split}
    }
    own = [row for row in rows if row["control"] is None]
    for row in (row for row in own if row["scope"] == "all"):
        numbers[f"difference_{row['edit']}_all"] = _difference(row, split)
    cells = [row for row in own if row["scope"] != "all"]
    if cells and not routes:
        key = "corrupted" if cfg.edit == "patch" else "difference"
        best = (
            max(cells, key=lambda row: row[key]) if key == "corrupted" else min(cells, key=lambda r: r[key])
        )
        numbers[f"largest_effect ({_where(best)}, of {len(cells)} edits)"] = (
            {"value": best["corrupted"], "n": best["n"], "split": split} if key == "corrupted"
            else _difference(best, split)
        )  # fmt: skip
    for row in routes:
        numbers[f"moved_both, thought {row['thought_idx']}: {row['carried_by']}"] = {
            "value": row["moved_both"], "low": row["moved_both_low"], "high": row["moved_both_high"],
            "n": row["n"], "split": split,
        }  # fmt: skip
    return numbers


def objections(cfg: InterveneConfig, rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the numbers should not be believed for.

    Raises:
        HookError: not one of the edits changed anything.
    """
    edited = [row for row in rows if row["changed_site"] is not None]
    idle = [row for row in edited if row["changed_site"] == 0]
    own = [row for row in edited if row["control"] is None]
    found = []
    if own and all(row["changed_site"] == 0 for row in own) and cfg.edit != "splice":
        raise HookError(
            f"No edit changed anything ({_where(own[0])}{' ..' if len(own) > 1 else ''}): every state is the "
            f"same before and after, in all {own[0]['n']} problems. Edit another site, pass or latent"
        )
    if idle:
        found.append(f"changed nothing at their place, so that they say nothing: {_list(idle)}")
    unread = [row for row in edited if row["changed_site"] > 0 and row["moved"] == 0]
    if unread:
        found.append(f"changed the state, and no logit of any answer moved (unread?): {_list(unread)}")
    if rows[0]["accuracy_untouched"] < LOW_ACCURACY:
        found.append(
            f"the untouched model is right in {rows[0]['accuracy_untouched']:.1%} of the problems; no edit "
            f"can lower that by much; look at kl and answer_logprob"
        )
    return found


def _difference(row: dict[str, Any], split: str) -> dict[str, Any]:
    kept = {"value": row["difference"], "low": row["low"], "high": row["high"], "n": row["n"]}
    return kept | {"split": split, "verdict": row["verdict"]}


def _where(row: dict[str, Any]) -> str:
    """A row's edit and place in words."""
    at = [str(row[name]) for name in ("layer", "thought_idx") if row[name] is not None]
    dose = f", dose {row['dose']:g}" if row.get("dose") is not None else ""
    return f"{row['edit']} {row['site'] or ''}[{', '.join(at) or 'all'}]{dose}"


def _list(rows: Sequence[dict[str, Any]], most: int = 6) -> str:
    shown = [_where(row) + (f" ({row['control']})" if row["control"] else "") for row in rows[:most]]
    return ", ".join(shown) + (f" and {len(rows) - most} more" if len(rows) > most else "")
