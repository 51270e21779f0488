"""What earlier versions wrote, in today's words: the one place that knows old keys.

Every config table and every `result.json` passes through here when it is read, so that old runs are read and
continued. A rule looks at the table's shape, and leaves alone what is not its own.
"""

from __future__ import annotations

from collections.abc import Callable

from thoughtlens.core.record import Json


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


CONFIG_RULES: tuple[Callable[[Json], Json], ...] = (_settings_of_one_source,)
"""Applied in order to every table of settings: a recipe's, or a stage's own `config.toml`."""
RESULT_RULES: tuple[Callable[[Json], Json], ...] = (_pooled_member,)
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
