"""Commands that publish and fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import app, show

Repo = Annotated[str, typer.Argument(help="owner/name on the hub, or a directory: ./there, /there.")]


@app.command()
def push(
    path: Annotated[Path, typer.Argument(help="A run, an SAE, a folder of SAEs, a sweep or a grid.")],
    repo: Repo,
    *,
    acts: Annotated[bool, typer.Option("--acts", help="Also push the activations.")] = False,
    private: Annotated[bool, typer.Option("--private", help="A new repository only you can see.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Replace an earlier push.")] = False,
    license: Annotated[str | None, typer.Option(help="For the card, e.g. mit.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch on the hub.")] = None,
) -> None:
    """Publish with a card filled from the results; a run goes with its explorer."""
    from thoughtlens.ops import hub

    show(hub.push(path, repo, acts=acts, private=private, update=update, license=license, revision=revision))


@app.command()
def pull(
    repo: Repo,
    path: Annotated[Path, typer.Argument(help="The directory to make.")],
    *,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
) -> None:
    """Fetch what was pushed, and compare every file with its digest."""
    from thoughtlens.ops import hub

    show(hub.pull(repo, path, revision=revision))
