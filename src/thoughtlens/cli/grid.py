"""The command that trains a grid of SAEs."""

from __future__ import annotations

from thoughtlens.cli.app import Acts, Out, Overrides, PlanOnly, Recipe, app, show


@app.command()
def grid(
    recipe: Recipe, overrides: Overrides = None, *, out: Out, acts: Acts = None, plan: PlanOnly = False
) -> None:
    """Train every setting on every layer and thought, as stacks: sae.k=8,16 train.lr=1e-4,4e-4 seeds=0,1."""
    from thoughtlens.studies.grid import stage

    show(stage.run(recipe, overrides or [], out, acts=acts, plan_only=plan))
