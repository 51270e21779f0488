"""The command of circuits: which thought, or which latent, makes which."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import PlanOnly, RunDir, app, doing
from thoughtlens.core import BY_NAME, ConfigError, require_run

FIGURES = (".svg", ".png", ".pdf")


@app.command()
def circuit(
    run_dir: RunDir,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value, e.g. seed=1; docs/settings.md has every key."),
    ] = None,
    *,
    problem: Annotated[
        str | None,
        typer.Option(help="Of this problem alone, by problem_id or as a question: its latents' graph."),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Also draw the graph here: .svg, .png or .pdf.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; unset: its place in the run.")
    ] = None,
    plan: PlanOnly = False,
) -> None:
    """Which thought makes which, or of one problem the graph of its latents; every edge tried."""
    require_run(run_dir)
    if figure is not None and figure.suffix not in FIGURES:
        raise ConfigError(f"--figure: expected a file that ends in {', '.join(FIGURES)}, got {figure}")
    changes, named = _named(overrides or [])
    problem = problem or named
    if problem is None:
        name, place = "circuit", out or run_dir / BY_NAME["circuit"].directory
    else:
        from thoughtlens.tracing import FOLDER, name_of

        name, place = "graph", out or run_dir / FOLDER / name_of(problem)
    source = BY_NAME[name].table(run_dir) | ({} if problem is None else {"problem": problem})
    doing(name, source, changes, place, plan=plan)
    if figure is not None and not plan:
        _draw(name, place, figure)


def _named(overrides: list[str]) -> tuple[list[str], str | None]:
    """Changes to the settings, without that which names a problem; and the problem."""
    plain = [one.removeprefix("circuit.") for one in overrides]
    named = [one.partition("=")[2] for one in plain if one.startswith("problem=")]
    return [one for one in plain if not one.startswith("problem=")], named[-1] if named else None


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
