"""Commands that look into what is there: a run, a recipe, a store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.app import app, show


@app.command()
def fire(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="One or more texts.")],
) -> None:
    """Show the strongest latents of a text, its L0, and which of them fire everywhere."""
    from thoughtlens.core import say
    from thoughtlens.latents import on_text as stage

    result = stage.fire(run_dir, texts)
    say(stage.render(result))
    show(result)


@app.command()
def recipe(name: Annotated[str, typer.Argument(help="A shipped recipe's name.")]) -> None:
    """Print a complete recipe with every key explained."""
    from thoughtlens.core import load_config, read_recipe, to_toml
    from thoughtlens.models.distill.stage import DistillConfig
    from thoughtlens.studies import pipeline

    of_distill = set(read_recipe(name)) <= set(DistillConfig.model_fields)
    cfg = load_config(DistillConfig, name) if of_distill else pipeline.load(name)
    sys.stdout.write(to_toml(cfg, comments=True))


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from thoughtlens.core import recipe_names

    show({"recipes": recipe_names()})


@app.command()
def verify(store: Annotated[Path, typer.Argument(help="An acts/ directory.")]) -> None:
    """Check every digest of an activation store."""
    from thoughtlens.acts.store.reader import verify

    show(verify(store))
