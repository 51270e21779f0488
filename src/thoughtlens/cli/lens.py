"""The command that reads states through the model's output side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.app import Overrides, PlanOnly, app, show


@app.command()
def lens(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run: its acts and, if there, sae.")],
    overrides: Overrides = None,
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; unset: RUN/lens.")] = None,
    plan: PlanOnly = False,
) -> None:
    """What a thought would say: logit and tuned lens, beside a shuffled null; decoder rows in words."""
    from thoughtlens.core import load_config
    from thoughtlens.latents.lens import stage

    table = {"acts": str(run_dir / "acts")}
    table |= {"sae": str(run_dir / "sae")} if (run_dir / "sae").is_dir() else {}
    cfg = load_config(stage.LensConfig, table, overrides or [])
    show({"plan": vars(stage.plan(cfg))} if plan else stage.lens(cfg, out or run_dir / "lens"))
