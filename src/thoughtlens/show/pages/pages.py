"""What the explorer and the server share: the page's own files, and an explorer that is up to date."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from thoughtlens.core import (
    BY_NAME,
    Config,
    ConfigError,
    Outcome,
    Result,
    digest,
    identity,
    load_config,
    read_json,
    read_recipe,
    read_result,
    run_stage,
)
from thoughtlens.show.explorer.config import ExplorerConfig

PAGE = resources.files("thoughtlens.show.explorer") / "page"
SCRIPTS = (
    "vendor/htm-preact.js", "store.js", "parts.js", "charts.js", "latent.js", "compare.js", "problem.js",
    "meaning.js", "graph.js", "overview.js", "app.js",
)  # fmt: skip
STYLE = "style.css"
FOREIGN = ".pulled"
"""Lies beside pages that somebody else made: their scripts are not opened."""
Inputs = dict[str, Path]


def pages_of(
    run: Path, cfg: Config, out: str | Path, work: Callable[[Path], Outcome], *, stage: str, inputs: Inputs
) -> Result:
    """`run_stage` for pages of a run: those that the run has outgrown are written again.

    Raises:
        OccupiedError: something else is at `out`, also pages of another run or with other settings.
    """
    outgrown = _outgrown(Path(out), run, cfg, stage, inputs)
    return _again(Path(out), lambda: run_stage(stage, cfg, out, work, inputs=inputs), outgrown)


def explorer_of(run: str | Path) -> ExplorerConfig:
    """What the explorer of a run shows: as its recipe says, if it does.

    Raises:
        ConfigError: a recipe that cannot be read.
    """
    return load_config(ExplorerConfig, BY_NAME["explorer"].table(Path(run)))


def refreshed(cfg: ExplorerConfig, out: str | Path) -> Result:
    """The explorer at `out`; one that was pulled, or that runs or settings have outgrown, is written again.

    Raises:
        OccupiedError: something else than an explorer is at `out`.
    """
    stage = BY_NAME["explorer"]
    pulled = (Path(out) / FOREIGN).is_file()
    other = pulled or (_made_as(Path(out), "explorer") and not _same_settings(Path(out), cfg))
    return _again(Path(out), lambda: stage.run(cfg, out), other)


def _again(out: Path, make: Callable[[], Result], outgrown: bool) -> Result:
    """What is at `out` goes only when its successor is there; a kill in between leaves one or the other."""
    old = out.with_name(f".{out.name}.outgrown")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
    if outgrown:
        os.rename(out, old)
    try:
        result = make()
    except BaseException:
        if outgrown and not out.exists():
            os.rename(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return result


def _made_as(out: Path, stage: str) -> bool:
    result = out / "result.json"
    return result.is_file() and read_json(result).get("stage") == stage


def _same_settings(out: Path, cfg: Config) -> bool:
    try:
        return identity(load_config(type(cfg), out)) == identity(cfg)
    except ConfigError:
        return False


def _outgrown(out: Path, run: Path, cfg: Config, stage: str, inputs: Inputs) -> bool:
    """Whether pages of this run, made with these settings, show it as it no longer is."""
    if not (_made_as(out, stage) and _same_settings(out, cfg)):
        return False
    own = run.resolve() in (Path(read_recipe(out)["run"]).resolve(), *out.resolve().parents)
    known = {name: entry["digest"] for name, entry in read_result(out)["inputs"].items()}
    return own and known != {name: digest(path) for name, path in inputs.items()}
