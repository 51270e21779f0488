"""Commands that train, test and change thought models."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import Out, Overrides, PlanOnly, Recipe, app, do, doing
from thoughtlens.core import BY_NAME, ConfigError


@app.command(help=BY_NAME["distill"].about)
def distill(recipe: Recipe, overrides: Overrides = None, *, out: Out, plan: PlanOnly = False) -> None:
    doing("distill", recipe, overrides, out, plan=plan)


@app.command(help=BY_NAME["gates"].about)
def gates(
    model: Annotated[str, typer.Argument(help="A thought model: codi-tiny, a hub id, a directory.")],
    overrides: Overrides = None,
    *,
    n: Annotated[int, typer.Option(help="Held-out problems.")] = 3000,
    problems: Annotated[str | None, typer.Option(help="arithmetic, gsm8k:test, or a Parquet file.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of problems and edits.")] = 0,
    out: Out,
) -> None:
    if (Path(model) / "acts").is_dir():
        raise ConfigError(
            f"Expected a thought model, got the run {model}; its thoughts are changed by: "
            f"thoughtlens intervene {quote(model)}"
        )
    table = {"model": model, "n": n, "seed": seed} | ({"problems": problems} if problems else {})
    doing("gates", table, overrides, out)


@app.command(help=BY_NAME["intervene"].about)
def intervene(
    source: Annotated[
        str, typer.Argument(metavar="RUN_OR_MODEL", help="A run's directory, or a thought model's name.")
    ],
    overrides: Overrides = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; unset: intervene/EDIT in the run.")
    ] = None,
    plan: PlanOnly = False,
) -> None:
    from thoughtlens.core import load_config
    from thoughtlens.interventions import InterveneConfig, of_run

    is_run = (Path(source) / "acts").is_dir()
    if out is None and not is_run:
        example = f"thoughtlens intervene {quote(source)} --out runs/intervene"
        raise typer.BadParameter(f"missing, where to write, as in: {example}", param_hint="--out")
    table = of_run(source) if is_run else {"model": {"name": source, "dtype": "float32"}}
    cfg = load_config(InterveneConfig, table, overrides or [])
    do(BY_NAME["intervene"], cfg, out or Path(source) / "intervene" / cfg.edit.kind, plan=plan)
