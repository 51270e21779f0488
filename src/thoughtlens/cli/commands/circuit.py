"""The command of circuits: which thought, or which latent, makes which."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import MOST_PATH, Changes, OutInRun, PlanOnly, RunDir, app, doing
from thoughtlens.core import BY_NAME, ConfigError, NotThereError, read_recipe, require_run

FIGURES = (".svg", ".png", ".pdf")
TEXTS = (".txt", ".text", ".md")
"""Ends of a file's name, which no text is taken to have."""


@app.command()
def circuit(
    run_dir: RunDir,
    overrides: Changes = None,
    *,
    problem: Annotated[
        str | None,
        typer.Option(help="Of this problem alone, by problem_id or as a question: its latents' graph."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Of this text, in a run of texts, or of a file's lines: its latents' graph."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help='With --text, the next token that is asked about, such as " Paris".')
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the graph, or one that is there, here: .svg, .png or .pdf.")
    ] = None,
    program: Annotated[
        bool,
        typer.Option("--program", help="Write what the thoughts compute as a Python program, and grade it."),
    ] = False,
    out: OutInRun = None,
    plan: PlanOnly = False,
) -> None:
    """Which thought makes which, or of one problem or text the graph of its latents; every edge tried."""
    require_run(run_dir)
    if program:
        if any(given is not None for given in (problem, text, target, figure)):
            raise ConfigError("--program: a program is of all problems and has no figure; ask for it alone")
        stage = BY_NAME["program"]
        doing("program", stage.table(run_dir), overrides, out or run_dir / stage.directory, plan=plan)
        return
    if figure is not None and figure.suffix not in FIGURES:
        raise ConfigError(f"--figure: expected a file that ends in {', '.join(FIGURES)}, got {figure}")
    changes, given = _named(overrides or [])
    given |= {key: value for key, value in (("problem", problem), ("text", text)) if value is not None}
    name, place, table = _chosen(run_dir, given, target)
    if plan or figure is None or changes or not _is_there(out or place, table):
        doing(name, BY_NAME[name].table(run_dir) | table, changes, out or place, plan=plan)
    if figure is not None and not plan:
        _draw(name, out or place, figure)


def _chosen(run: Path, given: dict[str, str], target: str | None) -> tuple[str, Path, dict[str, str]]:
    """The stage that is asked for, its place in the run, and what it is asked about."""
    if len(given) > 1:
        raise ConfigError("Expected a problem or a text, got both: give one of --problem and --text")
    if target is not None and "text" not in given:
        raise ConfigError("--target is the next token of a text: give the text, too, with --text")
    if not given:
        _require_thoughts(run)
        return "circuit", run / BY_NAME["circuit"].directory, {}
    from thoughtlens.tracing import place_of_graph

    if "problem" in given:
        return "graph", place_of_graph(run, "problem", given["problem"]), given
    asked = given["text"]
    is_file = len(asked) < MOST_PATH and Path(asked).is_file()
    if not is_file and " " not in asked and Path(asked).suffix in TEXTS:
        raise NotThereError(f"--text: expected a text, or a file with one per line, found no file {asked}")
    table = {"texts": asked} if is_file else given
    place = place_of_graph(run, "text", asked, *(() if target is None else (target,)))
    return "textgraph", place, table if target is None else table | {"target": target}


def _require_thoughts(run: Path) -> None:
    """Refuse a run of texts of which no text is given.

    Raises:
        ConfigError: says how to give one.
    """
    from thoughtlens.acts import META, load_meta

    if (run / "acts" / META).is_file() and load_meta(run / "acts").kind == "text":
        raise ConfigError(
            f"{run} is a run of texts, and no text is given, as in: "
            f"thoughtlens circuit {quote(str(run))} --text 'The capital of France is'"
        )


def _named(overrides: list[str]) -> tuple[list[str], dict[str, str]]:
    """Changes to the settings, without those which name a problem or a text; and these."""
    pairs = [one.removeprefix("circuit.").partition("=") for one in overrides]
    given = {key: value for key, _, value in pairs if key in ("problem", "text")}
    return ["".join(pair) for pair in pairs if pair[0] not in given], given


def _is_there(place: Path, table: dict[str, str]) -> bool:
    """Whether a stage has finished there that was asked the same, however many edges it tried."""
    return (place / "result.json").is_file() and table.items() <= read_recipe(place).items()


def _draw(name: str, place: Path, figure: Path) -> None:
    """The graph of a finished stage as a file."""
    from thoughtlens.core import read_result
    from thoughtlens.show import class_graph, graph_map, save
    from thoughtlens.tracing import CircuitOutcome, read_graph

    if name == "circuit":
        graph = class_graph(CircuitOutcome.from_json(read_result(place)))
    else:
        graph = read_graph(place)
    figure.parent.mkdir(parents=True, exist_ok=True)
    save(graph_map(graph), figure)
