"""Pages of graphs: the circuit of a class of problems, and the graphs of single problems and texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thoughtlens.core import Json, Record, column, read_result
from thoughtlens.show.pages.graphs import class_graph
from thoughtlens.show.pages.run import Run
from thoughtlens.tracing import CircuitOutcome, Graph, graphs_in, read_graph


@dataclass(frozen=True, kw_only=True)
class ListedGraph(Record):
    """A graph in the list of those that have a page."""

    name: str
    text: str
    answer: str
    n_shown: int
    n_tried: int
    problem: int | None = column(default=None, null=True)
    """Its number among the problems that have a page."""


def graph_shards(run: Run, problems: Mapping[str, int]) -> tuple[dict[str, Any], list[ListedGraph]]:
    """Tables `graphs/N`, one for each graph, and the list of them, the circuit of the class first.

    Args:
        run: The run; its folder `graphs` has the graphs.
        problems: The number of each problem's page, by problem_id.
    """
    shards, listed = dict[str, Any](), list[ListedGraph]()
    outcome = run.outcome("circuit", CircuitOutcome)
    for graph, problem_id in [
        *([] if outcome is None else [(class_graph(outcome), None)]),
        *((read_graph(path), read_result(path).get("problem_id")) for path in graphs_in(run.root).values()),
    ]:
        shards[f"graphs/{len(listed)}"] = _page(graph)
        listed.append(
            ListedGraph(
                name=graph.name,
                text=graph.text,
                answer=graph.answer,
                n_shown=len(graph.edges),
                n_tried=graph.n_tried,
                problem=None if problem_id is None else problems.get(problem_id),
            )
        )
    return shards, listed


def _page(graph: Graph) -> Json:
    """The graph without what no page shows."""
    return {name: value for name, value in graph.to_json().items() if name != "headline"}
