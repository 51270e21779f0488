"""The runs and studies below a folder, each in a line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thoughtlens.core import (
    OF_RUNS,
    ConfigError,
    Json,
    NotThereError,
    Record,
    StoreError,
    aligned,
    number,
    read_json,
    read_recipe,
)

STUDIES = ("sweep", "grid", "distill", "suite", "geometry", "gates", "replay")
"""Stages that are no part of a run: their folder is listed as a whole."""
INSIDE = ("directions", "sweep", "grid")
"""Folders of a run that are looked into."""
MOST_DEEP = 8
TOLD = 3
"""Numbers in a line for people."""
FIRST = (
    "fvu", "delta_ce", "spliced_accuracy", "accuracy_sae", "r2_sae", "precision", "verified",
    "auprc",
)  # fmt: skip
"""Headline numbers that a line begins with."""


@dataclass(frozen=True, kw_only=True)
class RunLine(Record):
    """A run, or a study of its own such as a sweep."""

    path: str
    name: str
    """As its recipe says; of others the folder's."""
    what: str
    """text or thoughts; of a study which one."""
    model: str | None
    date: str | None
    """When its last stage ended (UTC); None: none has."""
    bytes: int
    """On disk; what it only links to does not count."""
    stages: list[str]
    """Finished ones, in order."""
    unfinished: list[str]
    """Those that were begun; their command continues."""
    headline: dict[str, float]
    """By stage and name, such as `validate.fvu`."""
    problem: str | None = None
    """Why something of it could not be read."""

    @property
    def told(self) -> str:
        """The numbers that are looked at first."""
        by_name = sorted(self.headline, key=lambda key: _rank(key.partition(".")[2]))
        return ", ".join(f"{key.partition('.')[2]} {number(self.headline[key], 3)}" for key in by_name[:TOLD])


@dataclass(frozen=True, kw_only=True)
class RunList(Record):
    """What is below a folder."""

    root: str
    runs: list[RunLine]
    bytes: int

    def text(self) -> str:
        """A line for each."""
        head = ("run", "name", "what", "model", "date (UTC)", "size", "stages", "headline")
        lines = [
            (
                one.path, one.name, one.what, one.model or "", (one.date or "")[:16].replace("T", " "),
                size(one.bytes), _stages(one), one.problem or one.told,
            )
            for one in self.runs
        ]  # fmt: skip
        n = len(self.runs)
        return "\n".join([*aligned([head, *lines]), f"{n} {'run' if n == 1 else 'runs'}, {size(self.bytes)}"])


def list_runs(root: str | Path) -> RunList:
    """The runs and studies at a folder or below it, by path; links are not followed.

    Raises:
        NotThereError: no folder, or none in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotThereError(f"Expected a folder of runs at {root}, found none there")
    found = [line_of(path, root) for path in sorted(runs_below(root))]
    if not found:
        raise NotThereError(
            f"Expected runs in {root} or below, found none; a run is made by: thoughtlens run pilot --out "
            f"runs/pilot"
        )
    return RunList(root=str(root), runs=found, bytes=sum(one.bytes for one in found))


def runs_below(root: Path, deep: int = 0) -> Iterator[Path]:
    """Folders that are runs or studies; of what is in them only `INSIDE` is looked into."""
    known = is_run(root) or study_of(root) is not None
    if known:
        yield root
    below = [root / name for name in INSIDE] if known else list(root.iterdir()) if deep < MOST_DEEP else []
    for path in below:
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from runs_below(path, deep + 1)


def is_run(folder: Path) -> bool:
    """Whether a stage of a run stands, or was begun, in a folder."""
    return any(_made(folder, stage.directory) or _begun(folder, stage.directory) for stage in OF_RUNS)


def study_of(folder: Path) -> str | None:
    """Which study a folder holds: a sweep, a grid, a suite, ...; None where it holds none."""
    name = _json(folder / "result.json").get("stage")
    return name if name in STUDIES else None


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a finished sweep, or the one that it was written into."""
    return "sweep" in (study_of(folder), study_of(folder / "sweep"))


def line_of(path: Path, root: Path | None = None) -> RunLine:
    """A run's line; `path` in it is as seen from `root`, where that is above it."""
    study, problems = study_of(path), list[str]()
    recipe: Json = {}
    if (path / "config.toml").is_file():
        try:
            recipe = read_recipe(path / "config.toml")
        except (ConfigError, StoreError, NotThereError) as error:
            problems.append(str(error))
    results = {}
    for name, place in _places(path, study).items():
        if (place / "result.json").is_file():
            try:
                results[name] = read_json(place / "result.json")
            except StoreError as error:
                problems.append(str(error))
    ends = [
        (place / "result.json").stat().st_mtime for n, place in _places(path, study).items() if n in results
    ]
    meta = _json(path / "acts" / "meta.json")
    model = meta.get("model") or recipe.get("model")
    what = study or meta.get("kind") or next((r["kind"] for r in results.values() if "kind" in r), "")
    return RunLine(
        path=str(path),
        name=str(recipe.get("name") or path.resolve().name),
        what=str(what),
        model=str(model["name"] if isinstance(model, Mapping) else model) if model else None,
        date=datetime.fromtimestamp(max(ends), UTC).isoformat(timespec="seconds") if ends else None,
        bytes=bytes_of(path),
        stages=[] if study else [str(r.get("stage") or name) for name, r in results.items()],
        unfinished=[stage.name for stage in OF_RUNS if _begun(path, stage.directory)] if not study else [],
        headline={f"{stage}.{name}": v for stage, r in results.items() for name, v in values_of(r).items()},
        problem="; ".join(problems) or None,
    )


def values_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a stage's headline."""
    headline = result.get("headline")
    entries = headline.items() if isinstance(headline, Mapping) else ()
    plain = ((name, entry.get("value") if isinstance(entry, Mapping) else entry) for name, entry in entries)
    return {name: v for name, v in plain if isinstance(v, int | float) and not isinstance(v, bool)}


def bytes_of(folder: Path) -> int:
    """Size of the files of a folder on disk; links count nothing."""
    total = 0
    for where, _, names in os.walk(folder):
        files = (Path(where) / name for name in names)
        total += sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
    return total


def size(n: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:,.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.3g} {unit}"
        n /= 1000
    raise AssertionError


def _places(path: Path, study: str | None) -> dict[str, Path]:
    return {study: path} if study else {stage.name: path / stage.directory for stage in OF_RUNS}


def _made(folder: Path, stage: str) -> bool:
    """Whether a folder holds a finished stage, and not a run that has its name."""
    file = folder / stage / "result.json"
    return file.is_file() and "stages" not in _json(file)


def _begun(folder: Path, stage: str) -> bool:
    return (folder / f"{stage}.tmp" / "config.toml").is_file()


def _stages(one: RunLine) -> str:
    begun = [f"({name} unfinished)" for name in one.unfinished]
    return " ".join([*one.stages, *begun])


def _json(file: Path) -> Json:
    """A JSON object; empty where there is none that can be read."""
    try:
        return read_json(file) if file.is_file() else {}
    except StoreError:
        return {}


def _rank(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST)
