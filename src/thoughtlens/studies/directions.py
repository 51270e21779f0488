"""Directions of a run, read like latents: a run of their own beside it, on the same activations."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thoughtlens.core import (
    BY_NAME,
    Config,
    Json,
    OccupiedError,
    Record,
    ThoughtlensError,
    apply_overrides,
    digest,
    require_run,
    say,
    validate_config,
)
from thoughtlens.latents import TRANSLATORS
from thoughtlens.show import Run
from thoughtlens.studies import pipeline

FOLDER = "directions"
READ = ("interpret", "lens", "explain", "explorer")
"""Stages that then read them, as the run's recipe says."""
LONGEST = 80
"""Characters of a folder's name."""
CAN_FAIL = ("lens", "explain")
"""What a run of imported activations, or a short one, may not allow; the pages do without."""


@dataclass(frozen=True, kw_only=True)
class DirectionsDone(Record):
    """A run of directions."""

    run: str
    file: str
    """The directions with their names, hook and offsets, for other runs and for `intervene`."""
    directions: list[str]
    stages: list[str]
    left_out: dict[str, str]
    """Why a stage was left out."""
    page: str

    def text(self) -> str:
        """For people."""
        lines = [f"directions: {', '.join(self.directions)}", f"file: {self.file}"]
        lines += [f"without {stage}: {why}" for stage, why in self.left_out.items()]
        return "\n".join([*lines, f"every direction: {self.page}"])


def read(
    run: str | Path, file: str | Path | None, overrides: Sequence[str] = (), out: str | Path | None = None
) -> DirectionsDone:
    """Make a dictionary of directions on a run's activations, and do what shows latents with it.

    Args:
        run: The run.
        file: `.npy` or `.safetensors`; None: made from the run, as the settings say.
        overrides: Settings of the stage, and of the stages that then read (`explain.n_latents=5`).
        out: Where; unset: `RUN/directions/NAME`.

    Raises:
        OccupiedError: something else is at `out`.
    """
    run = Path(run)
    require_run(run)
    own, rest = _divided(overrides)
    stage = BY_NAME[FOLDER]
    table = apply_overrides(stage.config, {"file": str(file)} if file else {}, own)
    acts = run / "acts"
    lens = run / BY_NAME["lens"].directory
    if table.get("made") == "lens" and table.get("thoughts") and (lens / TRANSLATORS).is_file():
        table.setdefault("translators", str(lens))
    out = Path(out) if out else run / FOLDER / _name(file, table)
    cfg: Any = validate_config(stage.config, {**table, "acts": str(acts)}, own)
    cfg.require_source()
    recipe = pipeline.load({**pipeline.settings_of(Run.open(run).recipe), "stages": list(READ)}, rest)
    _require_same(acts, out / "acts")
    try:
        found = stage.run(cfg, out / "sae")
    except ThoughtlensError:
        with suppress(OSError):  # of a folder with something in it
            out.rmdir()
        raise
    _link(acts, out / "acts")
    done, left_out = [FOLDER], dict[str, str]()
    for name in READ:
        try:
            BY_NAME[name].run(_settings(recipe, name, out), out / BY_NAME[name].directory)
            done.append(name)
        except ThoughtlensError as error:
            if name not in CAN_FAIL:
                raise
            left_out[name] = str(error)
            say(f"{name} is left out: {error}")
    return DirectionsDone(
        run=str(out),
        file=str(out / "sae" / "directions.safetensors"),
        directions=[one["name"] for one in found["directions"]],
        stages=done,
        left_out=left_out,
        page=str(out / "explorer" / "index.html"),
    )


def _divided(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Settings of the directions, and those of the stages that read them."""
    others = tuple(f"{name}." for name in READ)
    own = [one for one in overrides if not one.startswith(others)]
    return own, [one for one in overrides if one.startswith(others)]


def _settings(recipe: pipeline.Recipe, name: str, out: Path) -> Config:
    """A stage's settings, every direction explained."""
    cfg: Any = pipeline.stage_config(recipe, name, out)
    if name == "explain" and cfg.latents is None and "n_latents" not in recipe.explain.model_fields_set:  # type: ignore[attr-defined]
        return cfg.model_copy(update={"n_latents": None})
    return cfg


def _name(file: str | Path | None, table: Json) -> str:
    """Folder of some directions: the file's name, or how they are made."""
    if file:
        return Path(file).stem
    keys = ("made", "label", "classes", "tokens", "hook", "thoughts")
    given = [table[key] for key in keys if table.get(key) is not None]
    words = [str(word) for one in given for word in (one if isinstance(one, list | tuple) else [one])]
    return "-".join(re.sub(r"[^\w.=+]+", "-", word) for word in words)[:LONGEST].strip("-")


def _require_same(acts: Path, place: Path) -> None:
    """See that no other activations are at `place`.

    Raises:
        OccupiedError: they are.
    """
    there = place.exists() and place.resolve() != acts.resolve()
    if there and digest(place) != digest(acts):
        raise OccupiedError(f"{place} is not {acts}; choose another --out")


def _link(acts: Path, place: Path) -> None:
    """The run's activations at `place`, without a second copy of them."""
    if place.exists():
        return
    if place.is_symlink():  # to activations that have moved since
        place.unlink()
    try:
        place.symlink_to(os.path.relpath(acts.resolve(), place.parent.resolve()), target_is_directory=True)
    except OSError:  # a system that allows no links of folders
        shutil.copytree(acts, place, copy_function=os.link)
