"""What earlier versions wrote, in today's words: the one place that knows old keys.

Every config table and every `result.json` passes through here when it is read, so that old runs are read and
continued. A rule looks at the table's shape, and leaves alone what is not its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from thoughtlens.core.records.record import Json


def _pooled_member(table: Json) -> Json:
    """The only SAE of a directory is "pooled" now, where it had an empty name."""
    lists = {"classify": "chosen", "convert": "members"}
    name = lists.get(table.get("stage", ""), "")
    if name not in table:
        return table
    return table | {name: [row | {"member": row["member"] or "pooled"} for row in table[name]]}


def _settings_of_one_source(table: Json) -> Json:
    """Problems had the settings of every source in one table; each source has its own now."""
    problems = table.get("problems")
    if not isinstance(problems, dict) or not {"seed_protocol", "validation", "n_steps"} <= problems.keys():
        return table
    generated, gsm8k = {"p", "n_steps", "seed"}, {"files", "labels", "seed_protocol", "validation"}
    made = problems.get("source") in ("arithmetic", "words", "generated")
    other = gsm8k if made else generated if problems.get("source") == "gsm8k" else generated | gsm8k
    return table | {"problems": {name: value for name, value in problems.items() if name not in other}}


EDITS = {
    "ablate": {"method"},
    "swap": {"column"},
    "patch": {"change", "twins"},
    "route": {"change", "twins"},
    "steer": {"latents", "n_control_latents", "directions", "doses"},
    "edit_latents": {"latents", "n_control_latents", "value", "scale"},
    "exit": set(),
    "splice": {"arms", "n_fit"},
}
"""The settings that each kind of edit of `intervene` has."""


def _one_table_of_edits(table: Json) -> Json:
    """`intervene` had the settings of every kind of edit in one table; each kind has its own now. Thoughts
    were called steps."""
    kind = table.get("edit")
    if not isinstance(kind, str) or kind not in EDITS:
        return table
    foreign = set().union(*EDITS.values())
    kept = {name: value for name, value in table.items() if name not in foreign | {"edit", "steps"}}
    own = {name: table[name] for name in EDITS[kind] & table.keys()}
    thoughts = {"thoughts": table["steps"]} if "steps" in table else {}
    return kept | thoughts | {"edit": {"kind": kind, **own}}


LARGEST = re.compile(
    r"largest_effect \((?P<edit>\S+) (?P<site>[\w+]*)\[(?P<at>[^]]*)\](?:, dose (?P<dose>\S+))?, "
    r"of (?P<n>\d+) edits\)"
)
ROUTE = re.compile(r"moved_both, thought (?P<thought>\d+): (?P<by>\w+)")


def _headline_without_prose(table: Json) -> Json:
    """Keys of `intervene`'s headline told place and finding, which are fields of the number now."""
    if table.get("stage") != "intervene":
        return table
    return table | {"headline": dict(_place_as_fields(*entry) for entry in table.get("headline", {}).items())}


def _place_as_fields(key: str, number: Json) -> tuple[str, Json]:
    if found := ROUTE.fullmatch(key):
        at = int(found["thought"])
        return f"moved_both_{at}", number | {"thought_idx": at, "carried_by": found["by"]}
    if not (found := LARGEST.fullmatch(key)):
        return key, number
    at = [int(i) for i in found["at"].split(", ")] if found["at"] != "all" else []
    layered = found["site"] not in ("thought_in", "thought_out") and len(at) > 1
    place = {
        "edit": found["edit"],
        "site": found["site"] or None,
        "layer": at[0] if layered else None,
        "thought_idx": at[-1] if at else None,
        "dose": None if found["dose"] is None else float(found["dose"]),
        "n_edits": int(found["n"]),
    }
    return "largest_effect", number | {name: value for name, value in place.items() if value is not None}


def _one_switch_for_eos(table: Json) -> Json:
    """One switch said that no eos stands on either side of CODI's thoughts; each side has its own now."""
    table = {
        name: _one_switch_for_eos(value) if isinstance(value, dict) else value
        for name, value in table.items()
    }
    if not isinstance(old := table.get("remove_eos"), bool):
        return table
    sides = {"eos_before": not old, "eos_after": not old}
    return sides | {name: value for name, value in table.items() if name != "remove_eos"}


def _words_after_correction(table: Json) -> Json:
    """Verdicts named a side by the interval alone; they follow p now, adjusted for all that was compared."""
    if table.get("stage") not in ("classify", "intervene", "replay", "suite"):
        return table
    table = {name: _no_side_by_chance(value) for name, value in table.items()}
    largest = table.get("headline", {}).get("largest_effect")
    if largest is not None and largest.get("verdict") in SIDES:
        ends = ("low", "high")
        own = [row for row in table["effects"] if all(row[end] == largest.get(end) for end in ends)]
        words = {row["verdict"] for row in own if row.get("p_holm") is not None}
        if words and not words & set(SIDES):
            table["headline"] |= {"largest_effect": largest | {"verdict": UNDECIDED}}
    return table


SIDES, UNDECIDED = ("better", "worse"), "inconclusive"
ALPHA = 0.05


def _no_side_by_chance(value: Any) -> Any:
    if isinstance(value, list):
        return [_no_side_by_chance(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {name: _no_side_by_chance(one) for name, one in value.items()}
    p = found.get("p") if found.get("p_holm") is None else found["p_holm"]
    if found.get("verdict") in SIDES and isinstance(p, float | int) and p > ALPHA:
        found["verdict"] = UNDECIDED
    return found


CONFIG_RULES: tuple[Callable[[Json], Json], ...] = (
    _settings_of_one_source,
    _one_table_of_edits,
    _one_switch_for_eos,
)
"""Applied in order to every table of settings: a recipe's, or a stage's own `config.toml`."""
RESULT_RULES: tuple[Callable[[Json], Json], ...] = (
    _pooled_member,
    _headline_without_prose,
    _words_after_correction,
)
"""Applied in order to every `result.json`."""


def translate_config(table: Json) -> Json:
    """A table of settings with today's keys."""
    for rule in CONFIG_RULES:
        table = rule(table)
    return table


def translate_result(table: Json) -> Json:
    """A `result.json` with today's keys."""
    for rule in RESULT_RULES:
        table = rule(table)
    return table
