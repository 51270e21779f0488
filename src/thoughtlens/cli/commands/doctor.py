"""The command to run first where something does not work."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import app, show


@app.command()
def doctor(
    *,
    json: Annotated[bool, typer.Option("--json", help="Everything, as one JSON object.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Without measuring how fast it is.")] = False,
) -> None:
    """Say what is installed, which kernels run, how fast this machine is, and what would help."""
    from thoughtlens.ops import render
    from thoughtlens.ops.doctor.report import doctor

    report = doctor(measure=not quick)
    if json:
        show(report.to_json())
    else:
        sys.stdout.write(render(report) + "\n")
    if report.broken:
        raise SystemExit(1)
