"""The command that shows finished trainings to trackers, and the options that make them follow one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from thoughtlens.cli.commands.app import app, show

Track = Annotated[
    list[str] | None, typer.Option("--track", help="Follow the training: wandb, tensorboard, trackio.")
]
Project = Annotated[str | None, typer.Option("--track-project", help="Project in the trackers.")]
Names = Annotated[
    str, typer.Option("--track-names", help="own, or sae-pilot: names of the first study of CODI's thoughts.")
]


def place(out: Path) -> Path:
    """Where the trackers' files of a run go: beside it, since a stage's directory is whole or absent."""
    return out.with_name(out.name + ".tracking")


@contextmanager
def following(
    out: Path, to: Sequence[str] | None, project: str | None, names: str
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Trackers follow what is trained inside the block; gives what takes the stages' results at its end."""
    if not to:
        yield lambda stages: None
        return
    from thoughtlens.ops import live

    group, folder = out.resolve().name, place(out.resolve())
    with live(to, group=group, project=project, names=names, folder=folder) as feed:
        yield feed.summarise


@app.command()
def track(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run, or its sae/.")],
    *,
    to: Annotated[list[str], typer.Option(help="wandb, tensorboard or trackio; several allowed.")],
    project: Annotated[str | None, typer.Option(help="Project in the trackers.")] = None,
    names: Names = "own",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for their files; unset: RUN.tracking.")
    ] = None,
) -> None:
    """Send a finished training's curve, and the headlines of its run, to W&B, TensorBoard or trackio."""
    from thoughtlens.ops import past

    folder = out or place(run_dir.resolve())
    show(past.track(run_dir, to, project=project, names=names, folder=folder))
