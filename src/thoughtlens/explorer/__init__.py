"""The explorer: a folder of static pages that shows a run's latents, and opens from the disk.

Browsers refuse to fetch files of a page that was opened from `file://`, but they load classic
scripts: every table is a script that hands over gzip in base64, and is asked for when it is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from thoughtlens.config import Config
from thoughtlens.errors import NotThereError
from thoughtlens.explorer.build import write_folder, write_single
from thoughtlens.explorer.latents import member_shards
from thoughtlens.explorer.overview import overview
from thoughtlens.explorer.problems import problem_shards
from thoughtlens.progress import progress
from thoughtlens.report.run import Run
from thoughtlens.stage import run_stage


class ExplorerConfig(Config):
    """What the explorer shows."""

    run: Path
    """The run's directory."""
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
        NotThereError: the run has no finished interpret.
    """
    run = Run.open(cfg.run)
    if "interpret" not in run.results:
        raise NotThereError(
            f"Expected a finished interpret in {cfg.run}, found none; run: thoughtlens interpret RECIPE "
            f"--out {cfg.run}"
        )
    inputs = {name: Path(cfg.run) / name for name in ("acts", "sae", "interpret")}
    return run_stage("explorer", cfg, out, lambda tmp: _work(cfg, run, tmp), inputs=inputs)


def _work(cfg: ExplorerConfig, run: Run, tmp: Path) -> dict[str, Any]:
    members = run.results["interpret"]["members"]
    shards: dict[str, Any] = {}
    with progress("explorer", len(members) + 1, "parts") as bar:
        for i, member in enumerate(members):
            shards |= member_shards(run, member["member"], i, cfg)
            bar.advance(1)
        problems, found = problem_shards(run, cfg)
        bar.advance(1)
    shards |= problems
    table = overview(run, found)
    sizes = (write_single if cfg.single else write_folder)(tmp, table, shards)
    return {
        "n_latents": sum(m["d_sae"] for m in members),
        "n_problems": len(found),
        **sizes,
        "headline": {"page": "index.html"},
        "warnings": [],
    }
