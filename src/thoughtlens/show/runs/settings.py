"""Settings of several runs, and in which of them they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thoughtlens.core import OF_RUNS, Record, read_recipe, read_result

OF_PAGES = ("explorer", "report")
"""Stages whose settings change no number."""
MOST = 120
"""Characters of a value that are shown."""


@dataclass(frozen=True, kw_only=True)
class Differs(Record):
    """A setting that is not the same in all runs."""

    setting: str
    values: list[str | None]
    """Of each run, as it is written; None: its stages have no such setting."""


def differing(runs: Sequence[Path]) -> list[Differs]:
    """The settings in which the stages of runs differ, and which stages are there.

    A setting of a stage that only one of the runs has is none.
    """
    stages = [list(made(run)) for run in runs]
    found = [dict(_settings(run)) for run in runs]
    rows = []
    if len({*map(tuple, stages)}) > 1:
        rows.append(Differs(setting="stages", values=[", ".join(own) for own in stages]))
    for key in dict.fromkeys(key for table in found for key in table):
        stage = key[0]
        there = [
            table.get(key, "unset") if stage in own else None
            for table, own in zip(found, stages, strict=True)
        ]
        if len({value for value in there if value is not None}) > 1:
            rows.append(Differs(setting=key[1], values=there))
    return _once(rows)


def made(run: Path) -> dict[str, Path]:
    """The finished stages of a run, by the name that they gave themselves."""
    places = {stage.name: run / stage.directory for stage in OF_RUNS}
    there = {name: place for name, place in places.items() if (place / "result.json").is_file()}
    return {str(read_result(place).get("stage") or name): place for name, place in there.items()}


def _settings(run: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Each setting of each stage, under the name that a recipe gives it."""
    of = {stage.name: stage for stage in OF_RUNS}
    for name, place in made(run).items():
        if name in OF_PAGES or not (place / "config.toml").is_file():
            continue
        stage = of.get(name)
        places, tables = (*stage.inputs, *stage.optional) if stage else (), stage.tables if stage else ()
        for key, value in read_recipe(place).items():
            if key not in places:
                prefix = key if key in tables or key == "seed" else f"{name}.{key}"
                yield from (((name, own), text) for own, text in _flat(prefix, value))


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
        return
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    yield key, text if len(text) <= MOST else f"{text[: MOST - 2]}.."


def _once(rows: Sequence[Differs]) -> list[Differs]:
    """Each line once: a seed is a setting of every stage."""
    return [row for i, row in enumerate(rows) if row not in rows[:i]]
