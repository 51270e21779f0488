"""Commands that show what thoughts hold."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import (
    Changes,
    OutInRun,
    PlanOnly,
    RunDir,
    app,
    doing,
    require_order,
    told,
)
from thoughtlens.core import BY_NAME, require_run


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
    file: Annotated[
        Path | None,
        typer.Option("--questions", "--file", help="Questions from a text file, one per line; - for stdin."),
    ] = None,
    member: Annotated[str | None, typer.Option(help="Which SAE of the run, where it has several.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Latents, and likeliest tokens, listed per thought.")] = 3,
    others: Annotated[
        int, typer.Option(min=0, help="Other problems that each reading is held against.")
    ] = 64,
    test: Annotated[
        bool, typer.Option("--test", help="Put other problems' thoughts in, and see what follows.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, on a terminal too.")] = False,
) -> None:
    """Show what a model thinks about a question: thought by thought what it reads as, then the answer."""
    require_order("think", source, questions or [])
    from thoughtlens.core import DataError
    from thoughtlens.tracing import render
    from thoughtlens.tracing import think as read

    asked = list(questions or [])
    if file is not None:
        asked += _questions(file)
    if not asked:
        name = quote(source)
        raise DataError(f'Expected a question: thoughtlens think {name} "QUESTION", or --questions FILE')
    found = read(source, asked, member=member, top=top, others=others, test=test)
    result = found[0].to_json() if len(found) == 1 else {"questions": [one.to_json() for one in found]}
    if as_json:
        sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
    else:
        told(result, "\n\n".join(render(one, _painted if _coloured() else _plain) for one in found))


def _questions(file: Path) -> list[str]:
    """Every line of a file, or of what is piped in, that is not empty."""
    from thoughtlens.core import DataError, NotThereError

    if str(file) == "-":
        text = sys.stdin.read()
    elif file.is_file():
        try:
            text = file.read_text("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"--questions: {file} is not text in UTF-8") from None
    else:
        raise NotThereError(
            f"--questions: expected a text file at {file}, found none; - reads what is piped in"
        )
    if found := [line.strip() for line in text.splitlines() if line.strip()]:
        return found
    raise DataError(f"--questions: {'what was piped in' if str(file) == '-' else file} holds no question")


def _coloured() -> bool:
    """Whether what is printed may have colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _painted(text: str, how: str) -> str:
    if how in ("bold", "dim"):
        return typer.style(text, bold=how == "bold" or None, dim=how == "dim" or None)
    return typer.style(text, fg=how)


def _plain(text: str, how: str) -> str:
    return text


def _of_a_run(name: str) -> None:
    """Add the command of a stage with the settings that the run's recipe has for it."""
    stage = BY_NAME[name]

    def command(
        run_dir: RunDir,
        overrides: Changes = None,
        *,
        out: OutInRun = None,
        plan: PlanOnly = False,
    ) -> None:
        require_run(run_dir)
        doing(name, stage.table(run_dir), overrides, out or run_dir / stage.directory, plan=plan)

    app.command(name, help=stage.about)(command)


_of_a_run("recovery")
_of_a_run("finetune")
_of_a_run("effects")
_of_a_run("influence")
_of_a_run("trace")
_of_a_run("program")
_of_a_run("orbits")
_of_a_run("attention")
_of_a_run("monitor")
