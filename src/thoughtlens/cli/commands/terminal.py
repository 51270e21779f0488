"""What a command prints where people read it: headlines with n, split and interval, and flat tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import Any

from thoughtlens.core import BY_NAME, Json, aligned, headline, number

OF_FILES = {
    "schema", "versions", "git_commit", "machine", "config_identity", "digest", "inputs", "definitions",
    "headline", "warnings", "stage", "seconds", "seed",
}  # fmt: skip
"""What is in `result.json` and not for the eye, or shown otherwise."""
MOST_ROWS, MOST_COLUMNS, MOST_VALUES = 20, 9, 30


def people(result: Json, place: Path | None = None) -> str:
    """A command's result as text; `place` is the directory that it is in."""
    if isinstance(result.get("stages"), Mapping):
        return "\n".join(_run(result))
    if "stage" in result:
        return "\n".join(_stage(result["stage"], result, place))
    return "\n".join(_rest(result))


def _run(result: Json) -> list[str]:
    stages = result["stages"]
    lines = chain.from_iterable(_stage(name, one, Path(one["path"])) for name, one in stages.items())
    return [*lines, *rest_of_run(result)]


def rest_of_run(result: Json) -> list[str]:
    """The last lines of a run: its warnings, its pages, its time."""
    lines = []
    if notes := result.get("warnings"):
        lines.append(f"{len(notes)} warnings, all in {result['run']}/result.json; the first: {notes[0]}")
    return [
        *lines,
        *to_open(result),
        f"{result['name']}, seed {result['seed']}: done in {number(float(result['seconds']))} s",
    ]


def to_open(result: Json) -> list[str]:
    """What to open after a run, or how to get it."""
    stages, run = result["stages"], quote(str(result["run"]))
    lines = [f"report: {stages['report']['path']}/report.html"] if "report" in stages else []
    if "explorer" in stages:
        path = stages["explorer"]["path"]
        lines.append(f"every latent: {path}/index.html, opened by: thoughtlens view {run}")
    return lines or [f"to look at it: thoughtlens view {run}"]


def ending(result: Json, out: Path) -> str:
    """What people are told at the end: what was found, and where the rest is; empty where nobody reads it."""
    if not sys.stdout.isatty() or BY_NAME["validate"].directory not in result["stages"]:
        return ""
    from thoughtlens.show import Findings, Run

    return "\n".join(["", *Findings(Run.open(out)).lines(), "", *rest_of_run(result)])


def _stage(name: str, result: Json, place: Path | None) -> list[str]:
    seconds = f", {number(float(result['seconds']))} s" if "seconds" in result else ""
    numbers = [
        (one.name, one.value, one.interval, f"n = {one.n}" if one.n else "", one.split)
        for one in headline(result)
    ]
    notes = [f"  WARNING: {text}" for text in result.get("warnings", [])]
    return [f"{name}{f': {place}' if place else ''}{seconds}", *_rest(result), *_table(numbers), *notes]


def _rest(result: Json) -> list[str]:
    """Values that stand alone, and lists of records as tables."""
    lines = []
    for key, value in result.items():
        if "seconds" in result and (key in OF_FILES or key.endswith("digest")):
            continue
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [f"  {key}:", *_records(value)]
        elif (text := _cell(value)) is not None:
            lines.append(f"  {key}: {text}")
    return lines


def _records(rows: Sequence[Json]) -> list[str]:
    """Columns that hold one value in a cell, and not the same in all."""
    shown = rows[:MOST_ROWS]
    columns = {key: [_cell(row.get(key)) or "" for row in shown] for key in rows[0]}
    told = {key: texts for key, texts in columns.items() if len(set(texts)) > (len(shown) > 1)}
    names = list(told)[:MOST_COLUMNS]
    cells = list(zip(*(told[name] for name in names), strict=True))
    more = [f"    and {len(rows) - MOST_ROWS:,} more"] if len(rows) > MOST_ROWS else []
    return [*_table([tuple(names), *cells], "    "), *more] if names else []


def _cell(value: Any) -> str | None:
    """A value that stands alone, a number with its interval, or a short list; None: it has no short form."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        middle = value.get("value", value.get("mean"))
        if middle is None or isinstance(middle, Mapping):
            return None
        low, high = value.get("low"), value.get("high")
        return number(middle) + (f" [{number(low)}, {number(high)}]" if low is not None else "")
    if isinstance(value, list | tuple):
        plain = len(value) <= MOST_VALUES and not any(isinstance(one, Mapping | list) for one in value)
        return ", ".join(map(number, value)) or None if plain else None
    return None if value is None else number(value)


def _table(rows: Sequence[tuple[str, ...]], indent: str = "  ") -> list[str]:
    """Aligned columns; empty ones are left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    return [f"{indent}{line}".rstrip() for line in aligned([*zip(*columns, strict=True)])]
