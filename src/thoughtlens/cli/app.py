"""What the commands share: the application, its arguments, its output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="thoughtlens",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="See what a language model is thinking: extract, train, validate, interpret, classify, report.",
)

Recipe = Annotated[str, typer.Argument(help="A shipped recipe's name or a TOML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, e.g. sae.k=64 model=gpt2.")]
Out = Annotated[Path, typer.Option("--out", help="The run's directory (or a stage's, for its own config).")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print rows, memory, disk and time expected; stop.")]
Acts = Annotated[Path | None, typer.Option(help="Take the activations from here.")]
Sae = Annotated[Path | None, typer.Option(help="Take the SAE from here.")]


def show(result: dict) -> None:
    """The command's one JSON object; of several processes under torchrun, the first one's."""
    if os.environ.get("RANK", "0") != "0":
        return
    sys.stdout.write(json.dumps(result, ensure_ascii=False, default=str) + "\n")
