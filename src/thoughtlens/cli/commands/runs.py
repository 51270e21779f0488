"""Commands over several runs: list, compare, clean."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import app, show, told


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="A run, or a folder with runs below it.")] = Path("runs"),
    *,
    json: Annotated[bool, typer.Option("--json", help="Everything, as one JSON object.")] = False,
    clean: Annotated[
        bool,
        typer.Option("--clean", help="Delete activations and codes, which can be made again; asks first."),
    ] = False,
    also: Annotated[
        list[str] | None, typer.Option(help="With --clean also: explorer, report or sae; can be repeated.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """List runs: model, date, size, finished stages, headline; or delete what they can make again."""
    from thoughtlens.core import ConfigError
    from thoughtlens.show import list_runs

    if not clean:
        if also or yes:
            raise ConfigError("--also and --yes belong to --clean")
        found = list_runs(folder)
        if json:
            show(found.to_json())
        else:
            sys.stdout.write(found.text() + "\n")
        return
    from thoughtlens.ops import USUAL, delete, pieces_of

    there = pieces_of(folder, [*USUAL, *(also or ())])
    if there.pieces and not yes and sys.stdin.isatty():
        sys.stderr.write(there.text() + "\n")
        yes = typer.confirm("Delete these?", default=False, err=True)
    done = delete(there) if yes and there.pieces else there
    told(
        done.to_json(),
        done.text() if yes or not there.pieces else f"{done.text()}; nothing was deleted, add --yes",
    )


@app.command()
def compare(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Runs, a folder of runs, or one sweep.")
    ],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="A page to write, such as compare.html.")] = None,
) -> None:
    """Runs side by side: settings that differ, numbers with intervals, verdicts; of a sweep a leaderboard."""
    from thoughtlens.core import ConfigError
    from thoughtlens.show import compare_runs, expand, is_sweep, write_page

    if len(paths) == 1 and is_sweep(paths[0]):
        from thoughtlens.studies.sweep.board import board

        if out is not None:
            raise ConfigError(
                f"--out: the page of a sweep is there already: {paths[0]}/table.md and pareto.pdf"
            )
        ranked = board(paths[0])
        return told(ranked.to_json(), ranked.text())
    found = compare_runs(expand(paths))
    if out is not None:
        write_page(found, out)
    told(found.to_json(), found.text(), place=out)
