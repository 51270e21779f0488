"""The explorer: a folder of static pages that shows a run's latents, and opens from the disk.

Browsers refuse to fetch files of a page that was opened from `file://`, but they load classic
scripts: every table is a script that hands over gzip in base64, and is asked for when it is needed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from thoughtlens.core import (
    Config,
    MismatchError,
    NotThereError,
    OccupiedError,
    progress,
    read_json,
    run_stage,
)
from thoughtlens.show.explorer.build import write_folder, write_single
from thoughtlens.show.explorer.cells import Cells
from thoughtlens.show.explorer.latents import member_shards
from thoughtlens.show.explorer.overview import overview
from thoughtlens.show.explorer.panels import Around
from thoughtlens.show.explorer.problems import problem_shards
from thoughtlens.show.explorer.sources import TABLES, sources
from thoughtlens.show.report.interventions import found_in
from thoughtlens.show.report.run import Run


class ExplorerConfig(Config):
    """What the explorer shows."""

    run: Path
    """The run's directory."""
    others: tuple[Path, ...] = ()
    """Other runs of the same kind (thoughts or text), whose SAEs are shown beside this run's: other seeds,
    other models. The problem pages are those of `run`."""
    single: bool = False
    """One HTML file instead of a folder; for small runs."""
    n_problems: int = Field(default=200, ge=0)
    """Problems (documents) that get a page of their own."""
    latents_per_shard: int = Field(default=64, ge=1)
    """Latents that are loaded together."""
    neighbours: int = Field(default=8, ge=0)
    """Latents of the nearest decoder rows shown with each."""
    seed: int = Field(default=0, ge=0)
    """Seed of the choice of problems."""


def explorer(cfg: ExplorerConfig, out: str | Path) -> dict[str, Any]:
    """Write the explorer of a run into the directory `out`.

    Returns:
        The stage's result: latents, problems, bytes before the first click, and in all.

    Raises:
        NotThereError: a run has no finished interpret.
        MismatchError: runs of thoughts beside runs of text.
        StoreError: a table of a run is damaged.
    """
    runs = [Run.open(root) for root in (cfg.run, *cfg.others)]
    for run in runs:
        if "interpret" not in run.results:
            raise NotThereError(
                f"Expected a finished interpret in {run.root}, found none; run: thoughtlens interpret RECIPE "
                f"--out {run.root}"
            )
        if run.kind != runs[0].kind:
            raise MismatchError(
                f"{runs[0].root} holds {runs[0].kind}, {run.root} holds {run.kind}; an explorer shows runs "
                f"of one kind"
            )
    return run_stage("explorer", cfg, out, lambda tmp: _work(cfg, runs, tmp), inputs=_inputs(runs))


def refreshed(cfg: ExplorerConfig, out: str | Path) -> dict[str, Any]:
    """The same; an explorer at `out` that the runs or the settings have outgrown is written again.

    Raises:
        OccupiedError: something else than an explorer is at `out`.
    """
    try:
        return explorer(cfg, out)
    except OccupiedError:
        result = Path(out) / "result.json"
        if not result.is_file() or read_json(result).get("stage") != "explorer":
            raise
        shutil.rmtree(out)
        return explorer(cfg, out)


def _inputs(runs: list[Run]) -> dict[str, Path]:
    """Everything that is shown: the folders that the runs have."""
    folders = ("acts", "sae", *dict.fromkeys(TABLES.values()))
    found: dict[str, Path] = {}
    for i, run in enumerate(runs):
        prefix = f"{i}_" if i else ""
        found |= {f"{prefix}{name}": run.root / name for name in folders if (run.root / name).is_dir()}
        found |= {f"{prefix}intervene_{name}": path for name, path in found_in(run).items()}
    return found


def _work(cfg: ExplorerConfig, runs: list[Run], tmp: Path) -> dict[str, Any]:
    found = sources(runs)
    shards: dict[str, Any] = {}
    cells = []
    with progress("explorer", len(found) + 1, "parts") as bar:
        for source in found:
            cells.append(Cells.of(source))
            shards |= member_shards(source, cells[-1], Around.of(source, found), cfg)
            bar.advance(1)
        problems, listed = problem_shards(found, cfg)
        bar.advance(1)
    shards |= problems
    table = overview(found, cells, listed)
    sizes = (write_single if cfg.single else write_folder)(tmp, table, shards)
    return {
        "n_latents": sum(source.d_sae for source in found),
        "n_problems": len(listed),
        **sizes,
        "headline": {"page": "index.html"},
        "warnings": [],
    }
