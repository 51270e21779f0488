"""Commands that run the pipeline or one of its stages."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import Acts, Overrides, PlanOnly, Recipe, Sae, app, doing, show
from thoughtlens.cli.commands.terminal import ending, to_open
from thoughtlens.cli.commands.track import Names, Project, Track, following
from thoughtlens.core import BY_NAME, say

INPUTS = {"acts": Acts, "sae": Sae}
"""Options for the inputs of a stage, by the name in its config."""
RunOut = Annotated[
    Path | None,
    typer.Option("--out", help="The run's directory (or a stage's, for its own config); unset: a run given."),
]

Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="Stages at once where they need not wait; unset: one for each processor, 1 on a GPU.",
    ),
]


def _place(out: Path | None, recipe: str, command: str) -> Path:
    """Where to write: what is given, else the run that stands in the recipe's place."""
    from thoughtlens.core import read_recipe, recipe_names

    if out is None and Path(recipe).is_dir() and recipe not in recipe_names():
        return Path(recipe)
    if out is None:
        read_recipe(recipe)  # what is no recipe needs no place
        example = f"thoughtlens {command} {quote(recipe)} --out {quote(f'runs/{Path(recipe).stem}')}"
        raise typer.BadParameter(f"missing, the run's directory, as in: {example}", param_hint="--out")
    return out


@app.command()
def run(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: RunOut = None,
    track: Track = None,
    track_project: Project = None,
    track_names: Names = "own",
    jobs: Jobs = None,
    plan: PlanOnly = False,
) -> None:
    """All stages of a recipe in order; what is done already is not done again."""
    from thoughtlens.studies import pipeline

    cfg, out = pipeline.load(recipe, overrides or []), _place(out, recipe, "run")
    if plan:
        return show(pipeline.plan(cfg, out))
    with following(out, track, track_project, track_names) as summarise:
        result = pipeline.run(cfg, out, jobs=jobs, foretell=True)
        summarise(result["stages"])
    if not sys.stdout.isatty():
        say("\n".join(to_open(result)))
    show(result, place=out, text=ending(result, out))


def _one(
    name: str,
    recipe: str,
    overrides: Sequence[str] | None,
    out: Path | None,
    plan: bool,
    **inputs: Path | None,
) -> None:
    from thoughtlens.studies import pipeline

    out = _place(out, recipe, name)
    given = {key: path for key, path in inputs.items() if path is not None}
    show(pipeline.run_one(name, recipe, overrides or [], out, inputs=given, plan_only=plan), place=out)


def _stage_command(name: str) -> None:
    """Add the command of one stage of a recipe, with an option for each of its inputs."""

    def command(
        recipe: Recipe,
        overrides: Overrides = None,
        *,
        out: RunOut = None,
        plan: PlanOnly = False,
        **inputs: Path | None,
    ) -> None:
        _one(name, recipe, overrides, out, plan, **inputs)

    *own, plan, _ = inspect.signature(command, eval_str=True).parameters.values()
    options = [
        inspect.Parameter(key, plan.kind, default=None, annotation=INPUTS[key])
        for key in BY_NAME[name].inputs
        if key in INPUTS
    ]
    command.__signature__ = inspect.Signature([*own, *options, plan])  # type: ignore[attr-defined]
    app.command(name, help=BY_NAME[name].about)(command)


_stage_command("extract")


@app.command(help=BY_NAME["train"].about)
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: RunOut = None,
    acts: Acts = None,
    track: Track = None,
    track_project: Project = None,
    track_names: Names = "own",
    plan: PlanOnly = False,
) -> None:
    out = _place(out, recipe, "train")
    with following(out, None if plan else track, track_project, track_names):
        _one("train", recipe, overrides, out, plan, acts=acts)


_stage_command("validate")
_stage_command("interpret")


@app.command(help=BY_NAME["classify"].about)
def classify(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: RunOut = None,
    acts: Acts = None,
    sae: Sae = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Instead of the recipe's labels, the sets of sae-probes; suite.KEY=VALUE."),
    ] = None,
    plan: PlanOnly = False,
) -> None:
    if suite is None:
        return _one("classify", recipe, overrides, out, plan, acts=acts, sae=sae)
    from thoughtlens.studies import pipeline

    place = _place(out, recipe, "classify")
    table, folder = pipeline.suite_of(suite, recipe, overrides or [], place, sae)
    doing("suite", table, None, folder, plan=plan, named=True)


_stage_command("replay")


@app.command(help=BY_NAME["report"].about)
def report(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: RunOut = None,
    figure: Annotated[
        str | None,
        typer.Option(help="Only this figure, one column wide for a paper; --out: a .pdf, .svg or .png file."),
    ] = None,
    plan: PlanOnly = False,
) -> None:
    if figure is None:
        return _one("report", recipe, overrides, out, plan)
    from thoughtlens.show import write_figure

    show({"figure": figure, "path": str(write_figure(recipe, figure, out))})
