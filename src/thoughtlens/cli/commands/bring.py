"""The command that makes a store of arrays that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import PlanOnly, app, doing
from thoughtlens.core import BY_NAME


@app.command("import", help=BY_NAME["import"].about)
def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Files with arrays and columns; also key=value, e.g. columns.problem=idx."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="The store to make: RUN/acts.")],
    first_thought: Annotated[
        int | None,
        typer.Option(help="Number that the files give the first vector that was fed back: 0 or 1."),
    ] = None,
    hook: Annotated[
        list[str] | None,
        typer.Option(help="What a hook of the files is in the model: early=layers.3:out; repeat it."),
    ] = None,
    plan: PlanOnly = False,
) -> None:
    places = [one for one in files if "=" not in one or Path(one).exists()]
    first = {} if first_thought is None else {"first_thought": first_thought}
    table = {"files": places, "hook": hook or [], **first}
    doing("import", table, [one for one in files if one not in places], out, plan=plan)
