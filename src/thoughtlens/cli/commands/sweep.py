"""Commands that try a grid of settings."""

from __future__ import annotations

from typing import Annotated

import typer

from thoughtlens.cli.commands.app import Acts, Out, Overrides, PlanOnly, Recipe, app, show
from thoughtlens.core import BY_NAME


@app.command(help=BY_NAME["sweep"].about)
def sweep(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: Out,
    acts: Acts = None,
    fidelity: Annotated[
        bool, typer.Option("--fidelity", help="Also run the model with its activations replaced.")
    ] = False,
    rule: Annotated[
        str | None, typer.Option(help="description, knee or best: how a setting is recommended.")
    ] = None,
    precision: Annotated[
        float | None, typer.Option(help="Error up to which rows are described, as a share of the variance.")
    ] = None,
    recovery: Annotated[
        bool, typer.Option("--recovery/--no-recovery", help="Say what each setting tells of labels.")
    ] = True,
    max_l0: Annotated[float | None, typer.Option(help="Largest L0 to recommend.")] = None,
    max_dead: Annotated[float | None, typer.Option(help="Largest share of dead latents.")] = None,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Leave out settings that cannot be trained.")
    ] = False,
    plan: PlanOnly = False,
) -> None:
    from thoughtlens.studies.sweep import study

    options = {"rule": rule, "precision": precision, "max_l0": max_l0, "max_dead": max_dead}
    options["recovery"] = None if recovery else False
    flags = {"fidelity": fidelity or None, "skip_refused": skip_refused or None}
    given = {"acts": acts, "plan_only": plan, **options, **flags}
    show(study.run("sweep", recipe, overrides or [], out, **given), place=out)


@app.command(help=BY_NAME["grid"].about)
def grid(
    recipe: Recipe, overrides: Overrides = None, *, out: Out, acts: Acts = None, plan: PlanOnly = False
) -> None:
    from thoughtlens.studies.sweep import study

    show(study.run("grid", recipe, overrides or [], out, acts=acts, plan_only=plan), place=out)
