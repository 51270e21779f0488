"""Commands that show what thoughts hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import Overrides, PlanOnly, RunDir, app, doing, require_run, show
from thoughtlens.core import BY_NAME


@app.command()
def think(
    source: Annotated[
        str,
        typer.Argument(metavar="MODEL_OR_RUN", help="A thought model, codi-tiny, or a run."),
    ],
    questions: Annotated[
        list[str] | None, typer.Argument(metavar="[QUESTION]...", help="One or more questions.")
    ] = None,
    *,
    file: Annotated[Path | None, typer.Option(help="Questions from a text file, one per line.")] = None,
    member: Annotated[str | None, typer.Option(help="Which SAE of the run, where it has several.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Latents listed per thought.")] = 3,
) -> None:
    """Show what a model thinks about a question: thought by thought what it reads as, then the answer."""
    from thoughtlens.core import DataError, say
    from thoughtlens.tracing import render
    from thoughtlens.tracing import think as read

    asked = list(questions or [])
    if file is not None:
        asked += [line for line in file.read_text("utf-8").splitlines() if line.strip()]
    if not asked:
        raise DataError('Expected a question, as in: thoughtlens think codi-tiny "QUESTION"; or --file')
    read_as = read(source, asked, member=member, top=top)
    for one in read_as:
        say(render(one))
    show(read_as[0].to_json() if len(read_as) == 1 else {"questions": [one.to_json() for one in read_as]})


def _of_a_run(name: str) -> None:
    """Add the command of a stage with the settings that the run's recipe has for it."""
    stage = BY_NAME[name]

    def command(
        run_dir: RunDir,
        overrides: Overrides = None,
        *,
        out: Annotated[
            Path | None, typer.Option("--out", help="Where to write; unset: its place in the run.")
        ] = None,
        plan: PlanOnly = False,
    ) -> None:
        require_run(run_dir)
        doing(name, stage.table(run_dir), overrides, out or run_dir / stage.directory, plan=plan)

    app.command(name, help=stage.about)(command)


_of_a_run("recovery")
_of_a_run("effects")
_of_a_run("trace")
