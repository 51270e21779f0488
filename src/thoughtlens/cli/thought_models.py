"""Commands that train and test thought models."""

from __future__ import annotations

from typing import Annotated

import typer

from thoughtlens.cli.app import Out, Overrides, PlanOnly, Recipe, app, show


@app.command()
def distill(recipe: Recipe, overrides: Overrides = None, *, out: Out, plan: PlanOnly = False) -> None:
    """Train a small model that thinks in vectors, with its controls."""
    from thoughtlens.core import load_config
    from thoughtlens.models.distill import stage

    cfg = load_config(stage.DistillConfig, recipe, overrides or [])
    show({"plan": vars(stage.plan(cfg))} if plan else stage.distill(cfg, out))


@app.command()
def gates(
    model: Annotated[str, typer.Argument(help="A thought model: codi-tiny, a hub id, a directory.")],
    overrides: Overrides = None,
    *,
    n: Annotated[int, typer.Option(help="Held-out problems.")] = 3000,
    problems: Annotated[str | None, typer.Option(help="arithmetic, gsm8k:test, or a Parquet file.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of problems and edits.")] = 0,
    out: Out,
) -> None:
    """Test whether a model's thoughts carry its reasoning: ablate, swap, patch, leave early."""
    from thoughtlens.core import load_config
    from thoughtlens.evals.validity import stage

    table = {"model": model, "n": n, "seed": seed} | ({"problems": problems} if problems else {})
    show(stage.gates(load_config(stage.GatesConfig, table, overrides or []), out))
