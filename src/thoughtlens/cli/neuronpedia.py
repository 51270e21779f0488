"""The command that writes a run's latents for Neuronpedia."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.app import Overrides, app, show


@app.command()
def neuronpedia(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    settings: Overrides = None,
    *,
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
) -> None:
    """Write a run's latents as Neuronpedia takes them: model_id=gpt2-small source_set=res-mylab."""
    from thoughtlens.core import load_config
    from thoughtlens.show.neuronpedia import stage

    show(stage.neuronpedia(load_config(stage.NeuronpediaConfig, {"run": str(run_dir)}, settings or []), out))
