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
        typer.Argument(help="A thought model to test, such as my_module:load; unset: the installation."),
    ] = None,
    *,
    question: Annotated[
        list[str] | None, typer.Option(help="What the model can read; at least two, of different lengths.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="Of the model's loader, as name=value.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, as one JSON object.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Without measuring how fast it is.")] = False,
) -> None:
    """Say what is installed, which kernels run, how fast this machine is, and what would help.

    Of a thought model: whether it keeps what every analysis relies on.
    """
    if model is not None:
        _of_model(model, question, option)
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


def _of_model(name: str, questions: list[str] | None, options: list[str] | None) -> None:
    from thoughtlens.ops.doctor.model import examine

    found = examine(name, questions, options or [])
    told(found.to_json(), found.text())
    if found.faults:
        raise SystemExit(1)
