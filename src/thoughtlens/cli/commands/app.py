"""What the commands share: the application, its arguments, its output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from thoughtlens.core import Json

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
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")]


def doing(
    name: str,
    source: str | Json,
    overrides: Sequence[str] | None,
    out: Path,
    *,
    plan: bool = False,
    named: bool = False,
) -> None:
    """Do a stage and show what came of it.

    Args:
        name: The stage.
        source: Its settings: a recipe's name, a file, or a table.
        overrides: Changes to them.
        out: Where it writes.
        plan: Only show what it would need.
        named: Show that under the stage's name, and say it, as for a stage of a run.
    """
    from thoughtlens.core import BY_NAME, load_config

    stage = BY_NAME[name]
    cfg = load_config(stage.config, source, overrides or [])
    estimate = None if not plan else stage.say_plan(cfg) if named else stage.plan(cfg)
    if estimate is None:
        return show(stage.run(cfg, out))
    show({"plan": {name: estimate.to_json()} if named else estimate.to_json()})


def show(result: Json) -> None:
    """The command's one JSON object; of several processes under torchrun, the first one's."""
    from thoughtlens.core import quiet

    if quiet():
        return
    sys.stdout.write(json.dumps(result, ensure_ascii=False, default=str) + "\n")
