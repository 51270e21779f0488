"""The command that compares SAEs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.app import Out, Overrides, PlanOnly, app, show


@app.command()
def geometry(
    overrides: Overrides = None,
    *,
    sae: Annotated[
        list[Path], typer.Option("--sae", help="An SAE directory; give it twice or more to compare.")
    ],
    acts: Annotated[
        list[Path] | None,
        typer.Option("--acts", help="The store of each --sae in turn; one for all where they share it."),
    ] = None,
    out: Out,
    plan: PlanOnly = False,
) -> None:
    """Nearest latents, and which latents two SAEs share: seeds, layers, thoughts, other models."""
    from thoughtlens.core import load_config
    from thoughtlens.latents.geometry import stage

    stores = [str(path) for path in acts or []]
    table: dict = {"sae": str(sae[0]), "others": [str(path) for path in sae[1:]]}
    table |= {"acts": stores[0]} if stores else {}
    table |= {"other_acts": stores[1:]} if len(stores) > 1 else {}
    cfg = load_config(stage.GeometryConfig, table, overrides or [])
    show({"plan": vars(stage.plan(cfg))} if plan else stage.geometry(cfg, out))
