"""What the commands share: the application, its arguments, its output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from thoughtlens.cli.commands.terminal import people

if TYPE_CHECKING:
    from thoughtlens.core import Config, Json, Stage

TASKS = {
    "Start": "think run recipes recipe import problems",
    "Train": "extract train sweep grid distill",
    "Look": "look runs compare view explorer report serve fire interpret explain directions lens attention "
    "geometry",
    "Test": "validate classify recovery trace monitor circuit program orbits effects influence intervene "
    "gates suite replay",
    "Share": "push pull convert neuronpedia track",
    "Maintain": "verify doctor bench",
}
"""What people come for, and the commands for it in the order of the help."""


class ByTask(TyperGroup):
    """The commands, listed by task."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A list for each task; one more for what stands in none."""
        left = [name for name in self.list_commands(ctx) if name not in " ".join(TASKS.values()).split()]
        for task, names in (TASKS | {"More": " ".join(left)}).items():
            there = [(name, command) for name in names.split() if (command := self.get_command(ctx, name))]
            rows = [(name, command.get_short_help_str(formatter.width - 18)) for name, command in there]
            if rows:
                with formatter.section(task):
                    formatter.write_dl(rows)


MOST_PATH = 200
"""Characters from which on nothing is looked up as a path."""
app = typer.Typer(
    name="thoughtlens",
    cls=ByTask,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> bool:
    if asked:
        from thoughtlens import __version__

        sys.stdout.write(f"thoughtlens {__version__}\n")
        raise typer.Exit
    return asked


@app.callback()
def program(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """See what a language model is thinking: extract, train, validate, interpret, classify, report."""


def _recipes(incomplete: str) -> list[str]:
    from thoughtlens.core import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


Recipe = Annotated[
    str,
    typer.Argument(
        help="A shipped recipe's name, a TOML file, or a run's directory.", autocompletion=_recipes
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, e.g. sae.k=64 model=gpt2.")]
Out = Annotated[Path, typer.Option("--out", help="The run's directory (or a stage's, for its own config).")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print rows, memory, disk and time expected; stop.")]
Acts = Annotated[Path | None, typer.Option(help="Take the activations from here.")]
Sae = Annotated[Path | None, typer.Option(help="Take the SAE from here.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")]


def require_order(command: str, run: str | Path, texts: Sequence[str]) -> None:
    """Refuse a text in the place of the run or model that stands behind it.

    Raises:
        ConfigError: says the right order.
    """
    from thoughtlens.core import ConfigError

    behind = [one for one in texts if len(one) < MOST_PATH and Path(one).is_dir()]
    if behind and (len(str(run)) >= MOST_PATH or not Path(run).exists()):
        shown = f"thoughtlens {command} {quote(behind[0])} {quote(str(run))}"
        raise ConfigError(f"Expected the run or model first, then texts, as in: {shown}")


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
        plan: Only say and show what it would need.
        named: Show that under the stage's name, as for a stage of a run.
    """
    from thoughtlens.core import BY_NAME, load_config

    stage = BY_NAME[name]
    do(stage, load_config(stage.config, source, overrides or []), out, plan=plan, named=named)


def do(stage: Stage, cfg: Config, out: Path, *, plan: bool, named: bool = False) -> None:
    """The same with settings that have been read."""
    show_plan(stage, cfg, named=named) if plan else show(stage.run(cfg, out), place=out)


def show_plan(stage: Stage, cfg: Config, *, named: bool = False) -> None:
    """What a stage expects to need, where it can say so."""
    estimate = stage.say_plan(cfg)
    table = {} if estimate is None else estimate.to_json()
    show({"plan": {stage.name: table} if named else table})


def told(result: Json, text: str, *, place: Path | None = None) -> None:
    """Show a result whose text is also said where the object goes elsewhere."""
    from thoughtlens.core import say

    if text and not sys.stdout.isatty():
        say(text)
    show(result, place=place, text=text)


def show(result: Json, *, place: Path | None = None, text: str = "") -> None:
    """What came of a command: text on a terminal, else one JSON object.

    Args:
        result: The object; of several processes under torchrun, the first one's is shown.
        place: The directory that it is in.
        text: The same for people; unset: its headline, its plain values and its tables.
    """
    from thoughtlens.core import quiet

    if quiet():
        return
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(result, ensure_ascii=False, default=str) + "\n")
    elif "plan" not in result:  # which has been said
        sys.stdout.write((text or people(result, place)) + "\n")
