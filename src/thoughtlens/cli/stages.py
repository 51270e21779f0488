"""Commands that run the pipeline or one of its stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtlens.cli.app import Acts, Out, Overrides, PlanOnly, Recipe, Sae, app, show
from thoughtlens.cli.track import Names, Project, Track, following

if TYPE_CHECKING:
    from collections.abc import Sequence


@app.command()
def run(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: Out,
    track: Track = None,
    track_project: Project = None,
    track_names: Names = "own",
    plan: PlanOnly = False,
) -> None:
    """All stages of a recipe in order; what is done already is not done again."""
    from thoughtlens.studies import pipeline

    cfg = pipeline.load(recipe, overrides or [])
    if plan:
        return show(pipeline.plan(cfg, out))
    with following(out, track, track_project, track_names) as summarise:
        result = pipeline.run(cfg, out)
        summarise(result["stages"])
    show(result)


def _stage(
    name: str, recipe: str, overrides: Sequence[str] | None, out: Path, plan: bool, **inputs: Path | None
) -> None:
    from thoughtlens.studies import pipeline

    given = {key: path for key, path in inputs.items() if path is not None}
    show(pipeline.run_one(name, recipe, overrides or [], out, inputs=given, plan_only=plan))


@app.command()
def extract(recipe: Recipe, overrides: Overrides = None, *, out: Out, plan: PlanOnly = False) -> None:
    """Run the model and store its activations."""
    _stage("extract", recipe, overrides, out, plan)


@app.command()
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: Out,
    acts: Acts = None,
    track: Track = None,
    track_project: Project = None,
    track_names: Names = "own",
    plan: PlanOnly = False,
) -> None:
    """Train the sparse autoencoder(s) on stored activations."""
    with following(out, None if plan else track, track_project, track_names):
        _stage("train", recipe, overrides, out, plan, acts=acts)


@app.command()
def validate(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: Out,
    acts: Acts = None,
    sae: Sae = None,
    plan: PlanOnly = False,
) -> None:
    """Measure the SAE on held-out rows, beside its baselines."""
    _stage("validate", recipe, overrides, out, plan, acts=acts, sae=sae)


@app.command()
def interpret(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: Out,
    acts: Acts = None,
    sae: Sae = None,
    plan: PlanOnly = False,
) -> None:
    """Collect what each latent responds to."""
    _stage("interpret", recipe, overrides, out, plan, acts=acts, sae=sae)


@app.command()
def classify(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: Out,
    acts: Acts = None,
    sae: Sae = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Instead of the recipe's labels, the sets of sae-probes; suite.KEY=VALUE."),
    ] = None,
    plan: PlanOnly = False,
) -> None:
    """Score labels with latents, raw activations and baselines on the same folds."""
    if suite is None:
        return _stage("classify", recipe, overrides, out, plan, acts=acts, sae=sae)
    from thoughtlens.cli.suites import run_suite
    from thoughtlens.studies.suite_recipe import of_recipe

    run_suite(*of_recipe(suite, recipe, overrides or [], out, sae), plan=plan)


@app.command()
def replay(
    recipe: Recipe, overrides: Overrides = None, *, out: Out, acts: Acts = None, plan: PlanOnly = False
) -> None:
    """Replay the first study of CODI's thoughts, and correct it line by line."""
    _stage("replay", recipe, overrides, out, plan, acts=acts)


@app.command()
def report(recipe: Recipe, overrides: Overrides = None, *, out: Out, plan: PlanOnly = False) -> None:
    """Write report.html, report.md and the figures of a run."""
    _stage("report", recipe, overrides, out, plan)
