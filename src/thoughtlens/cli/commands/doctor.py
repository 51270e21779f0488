"""The command to run first where something does not work."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import app, show, told


@app.command()
def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint to look into, or a thought model to test, such as my_module:load; unset: the "
            "installation."
        ),
    ] = None,
    *,
    question: Annotated[
        list[str] | None, typer.Option(help="What the model can read; at least two, of different lengths.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="Of the model's loader, as name=value.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, as one JSON object.")] = False,
    run: Annotated[bool, typer.Option("--run", help="Of a checkpoint: also think, and test it.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Without measuring how fast it is.")] = False,
) -> None:
    """Say what is installed, which kernels run, how fast this machine is, and what would help.

    Of a checkpoint: what it holds, whether it opens, and what to pass. Of code of yours, and of every model
    with --run: whether it keeps what every analysis relies on.
    """
    if model is not None:
        _of_model(model, question, option, run=run)
        return
    from thoughtlens.ops import render
    from thoughtlens.ops.doctor.report import doctor

    report = doctor(measure=not quick)
    if json:
        show(report.to_json())
    else:
        sys.stdout.write(render(report) + "\n")
    if report.broken:
        raise SystemExit(1)


def _of_model(name: str, questions: list[str] | None, options: list[str] | None, *, run: bool) -> None:
    from thoughtlens.models import is_checkpoint, opening
    from thoughtlens.ops.doctor.model import examine

    if is_checkpoint(name, options or []):
        seen = opening(name, options=options or [])
        told(seen.to_json(), seen.text())
        if not seen.opens:
            raise SystemExit(1)
        if not run:
            return
    found = examine(name, questions, options or [])
    told(found.to_json(), found.text())
    if found.faults:
        raise SystemExit(1)
