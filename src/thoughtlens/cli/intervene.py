"""The command that changes thoughts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.app import Out, Overrides, PlanOnly, app, show


@app.command()
def intervene(
    source: Annotated[
        str, typer.Argument(metavar="RUN_OR_MODEL", help="A run's directory, or a thought model's name.")
    ],
    overrides: Overrides = None,
    *,
    out: Out,
    plan: PlanOnly = False,
) -> None:
    """Change thoughts while the model thinks: ablate, swap, patch, steer, splice, leave early."""
    from thoughtlens.core import load_config
    from thoughtlens.interventions import stage

    is_run = (Path(source) / "acts").is_dir()
    table = stage.of_run(source) if is_run else {"model": {"name": source, "dtype": "float32"}}
    cfg = load_config(stage.InterveneConfig, table, overrides or [])
    show({"plan": vars(stage.plan(cfg))} if plan else stage.intervene(cfg, out))
