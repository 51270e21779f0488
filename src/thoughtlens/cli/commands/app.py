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
    "Start": {
        "think": "what a model thinks about a question",
        "run": "all stages of a recipe, from a model to its pages",
        "recipe, recipes": "print a recipe to change; list the shipped ones",
        "import, problems": "bring your own activations; write problems",
    },
    "Look": {
        "look": "anybody's SAE: from its files to its pages",
        "view, explorer, serve": "the pages of a run; serve: with the model behind",
        "report": "one page with every number and figure of a run",
        "runs, compare": "list runs, clean up; set runs side by side",
        "fire, interpret": "latents that a text lights; what each answers to",
        "explain, directions": "latents in words, scored; probes and directions",
        "lens, attention": "what thoughts would say; where they look",
        "geometry": "latents that other seeds and models have as well",
    },
    "Test": {
        "validate, recovery": "what the SAE keeps; which variables it holds",
        "classify, suite": "labels from latents, beside raw activations",
        "effects, intervene": "change thoughts or latents; what the answer becomes",
        "influence, orbits": "which thought moves which; how far thoughts move",
        "trace, circuit, program": "what thoughts compute: chain, graph, program",
        "gates, monitor": "do thoughts carry the reasoning, or contradict it?",
        "replay": "the first study of CODI, repeated and corrected",
    },
    "Train": {
        "extract, train": "store activations; train SAEs on them",
        "finetune": "an SAE trained further on what the model loses",
        "sweep, grid": "settings by seeds; settings by layer and thought",
        "distill": "a small model that thinks in vectors",
    },
    "Share": {
        "push, pull": "publish a run or an SAE; fetch one",
        "convert, neuronpedia": "to and from other libraries' formats",
        "track": "curves and results to W&B, TensorBoard, trackio",
    },
    "Maintain": {
        "verify": "compare every file with its digest",
        "doctor, bench": "what this machine has, and how fast it is",
    },
}
"""What people come for, and the commands for it, those that belong together on one line."""
WIDEST = max(len(names) for rows in TASKS.values() for names in rows)


class ByTask(TyperGroup):
    """The commands by task, on one screen."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The few options in one line, then the commands."""
        names = ("/".join(one.opts) for one in self.get_params(ctx))
        with formatter.section("Options"):
            formatter.write_text(", ".join(names))
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A list for each task."""
        for task, rows in TASKS.items():
            with formatter.section(task):
                formatter.write_dl([(names.ljust(WIDEST), what) for names, what in rows.items()])


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


def _without_space() -> None:
    """Let bash put no space behind the `=` of a completed setting, where its value goes."""
    from typer import _completion_shared

    scripts = getattr(_completion_shared, "_completion_scripts", {})
    told = "    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n    return 0\n"
    scripts |= {"bash": scripts["bash"].replace("    return 0\n", told)} if "bash" in scripts else {}


_without_space()


def _recipes(incomplete: str) -> list[str]:
    from thoughtlens.core import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def _keys(ctx: Any, incomplete: str) -> list[str]:
    """Settings of a recipe, or of a command that has its own, as far as they are written."""
    from thoughtlens.core import BY_NAME, field_paths
    from thoughtlens.studies import pipeline

    stage = BY_NAME.get(ctx.info_name or "")
    keys = [] if stage is None or stage.recipe == "default" else field_paths(stage.config)
    if not keys or "grid" in keys:  # also of many SAEs, whose other settings are a recipe's
        keys += field_paths(pipeline.recipe_class())
    tables, short = (
        {key.rpartition(".")[0] for key in keys if not ends or key.endswith(ends)}
        for ends in ((), (".name", ".source", ".kind"))
    )
    plain = dict.fromkeys(key for key in keys if key not in tables - short)
    return [f"{key}=" for key in plain if key.startswith(incomplete)]


Recipe = Annotated[
    str,
    typer.Argument(
        help="A shipped recipe's name, a TOML file, or a run's directory.", autocompletion=_recipes
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key=value, e.g. sae.k=64 model=gpt2.", autocompletion=_keys),
]
Out = Annotated[Path, typer.Option("--out", help="The run's directory (or a stage's, for its own config).")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print rows, memory, disk and time expected; stop.")]
Changes = Annotated[
    list[str] | None, typer.Argument(help="key=value, e.g. seed=1; docs/settings.md has every key.")
]
OutInRun = Annotated[Path | None, typer.Option("--out", help="Where to write; unset: its place in the run.")]
Acts = Annotated[Path | None, typer.Option(help="Take the activations from here.")]
Sae = Annotated[Path | None, typer.Option(help="Take the SAE from here.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")]


def require_order(command: str, run: str | Path, texts: Sequence[str]) -> None:
    """Refuse a text in the place of the run or model that stands behind it.

    Raises:
        ConfigError: says the right order.
    """
    from thoughtlens.core import ConfigError

    behind = [one for one in texts if one and len(one) < MOST_PATH and Path(one).is_dir()]
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
