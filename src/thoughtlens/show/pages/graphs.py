"""Graphs of what makes what as figures for papers, and the circuit of a class of problems as such a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from thoughtlens.show.pages.plots import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, styled
from thoughtlens.show.pages.text import shorten, visible
from thoughtlens.tracing import CircuitOutcome, Graph, GraphCut, GraphEdge, GraphNode

ROUTES = {"state": INK, "within": GREY}
OTHERS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
WIDE, NARROW, HIGH = 1.5, 0.55, 0.34
"""Inches of a column with latents, of one with a word alone, and of a node."""
SAYS = 26
"""Characters of what a latent says that are drawn."""


def class_graph(outcome: CircuitOutcome) -> Graph:
    """The circuit of a class of problems: whole thoughts, and an edge for each variable that it carries."""
    words = [node.name for node in outcome.nodes if node.thought_idx is None and node.name != "answer"]
    thoughts = [node for node in outcome.nodes if node.thought_idx is not None]
    last = max((node.thought_idx or 0 for node in thoughts), default=0)
    columns = ["question", *(f"thought {p}" for p in range(last + 1)), "answer"]
    nodes = [
        *(GraphNode(id=name, kind="token", column=0, text=name.removeprefix("question: ")) for name in words),
        *(
            GraphNode(
                id=node.name,
                kind="thought",
                column=columns.index(node.name),
                row=0,
                thought_idx=node.thought_idx,
                text=node.name,
                says=", ".join(
                    dict.fromkeys(edge.variable for edge in outcome.edges if edge.target == node.name)
                ),
            )
            for node in thoughts
        ),
        GraphNode(id="answer", kind="answer", column=len(columns) - 1, text="answer"),
    ]
    edges = [
        GraphEdge(
            source=edge.source,
            target=edge.target,
            route=edge.route,
            attribution=edge.attribution,
            effect=edge.effect,
            low=edge.low,
            high=edge.high,
            at_random=edge.at_random,
            p=edge.p,
            q=edge.q,
            flow=edge.flow,
            n=edge.n,
            variable=edge.variable,
        )
        for edge in sorted(outcome.edges, key=lambda edge: -edge.flow)
    ]
    return Graph(
        name="class",
        model=outcome.model,
        text=f"{outcome.n:,} problems of {outcome.n_steps} steps, split {outcome.split}",
        answer="",
        columns=columns,
        rows=["thought"],
        nodes=nodes,
        edges=edges,
        n_tried=outcome.arms[0].n_tried,
        rank_correlation=outcome.rank_correlation,
        slope=outcome.slope,
        cuts=[
            GraphCut(name=cut.name, about=cut.about, n_cut=cut.n_edges, value=cut.accuracy.value)
            for cut in outcome.cuts
            if cut.accuracy.value is not None
        ],
        headline=outcome.headline,
        definitions=outcome.definitions,
        warnings=outcome.warnings,
    )


@styled
def graph_map(graph: Graph) -> Figure:
    """Columns from left to right, hooks from below, an arrow per shown edge in the colour of its route."""
    shown = [edge for edge in graph.edges if edge.shown]
    drawn = {name for edge in shown for name in (edge.source, edge.target)}
    nodes = [node for node in graph.nodes if node.id in drawn or node.kind in ("token", "answer")]
    at, (width, height) = _layout(graph, nodes)
    figure = Figure(figsize=(max(width, 4.0), max(height, 1.6) + 0.5), layout="constrained")
    axis = figure.subplots()
    colours = dict(ROUTES)
    for i, route in enumerate(sorted({edge.route for edge in shown} - {*ROUTES})):
        colours[route] = OTHERS[i % len(OTHERS)]
    _arrows(axis, at, shown, colours)
    for node in nodes:
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": GREY}
        axis.text(*at[node.id], _label(node), ha="center", va="center", fontsize=6.5, bbox=box, zorder=3)
    for i, hook in enumerate(graph.rows if len(graph.rows) > 1 else []):
        high = [y for node in nodes if node.row == i for y in [at[node.id][1]]]
        if high:
            axis.text(-0.1, sum(high) / len(high), hook, ha="right", va="center", fontsize=7, color=GREY)
    for route in dict.fromkeys(edge.route for edge in shown):
        axis.plot([], [], color=colours[route], label=_named(route))
    if shown:
        axis.legend(loc="upper left", ncols=4)
    else:
        axis.set_title(f"No edge is shown, of {graph.n_tried:,} that were tried", loc="left")
    axis.set(xlim=(-0.9, width), ylim=(-0.3, height + 0.3))
    axis.set_axis_off()
    return figure


def _layout(
    graph: Graph, nodes: Sequence[GraphNode]
) -> tuple[dict[str, tuple[float, float]], tuple[float, float]]:
    """Where each node stands, in inches, and how large all is."""
    wide = {node.column for node in nodes if node.row is not None or node.kind == "answer"}
    left, x = list[float](), 0.0
    for i in range(len(graph.columns)):
        step = WIDE if i in wide else max(NARROW, 0.09 * len(graph.columns[i]) + 0.1)
        left.append(x + step / 2)
        x += step
    stacks = dict[tuple[int, int], list[GraphNode]]()
    for node in nodes:
        stacks.setdefault((node.column, -1 if node.row is None else node.row), []).append(node)
    bottom, y = dict[int, float](), 0.0
    for row in sorted({row for _, row in stacks}):
        bottom[row] = y
        y += HIGH * max(len(own) for (_, of), own in stacks.items() if of == row) + 0.5
    at = {
        node.id: (left[column], bottom[row] + HIGH * (i + 0.5))
        for (column, row), own in stacks.items()
        for i, node in enumerate(own)
    }
    top = y - 0.3
    middle = top / 2 if len(graph.rows) > 1 or 0 not in bottom else bottom[0] + HIGH / 2
    at |= {node.id: (left[node.column], middle) for node in nodes if node.kind == "answer"}
    return at, (x, top)


def _arrows(
    axis: Axes,
    at: Mapping[str, tuple[float, float]],
    edges: Sequence[GraphEdge],
    colours: Mapping[str, str],
) -> None:
    for edge in sorted(edges, key=lambda edge: edge.flow or 0.0):
        level = abs(at[edge.source][1] - at[edge.target][1]) < HIGH
        axis.add_patch(
            FancyArrowPatch(
                at[edge.source],
                at[edge.target],
                connectionstyle=f"arc3,rad={-0.25 if level and edge.route != 'state' else -0.08}",
                arrowstyle="-|>",
                mutation_scale=7,
                shrinkA=9,
                shrinkB=9,
                linewidth=0.5 + 2.5 * min(edge.flow or 0.0, 1.0),
                linestyle="--" if edge.effect < 0 else "-",
                color=colours[edge.route],
                alpha=0.8,
            )
        )


def _label(node: GraphNode) -> str:
    """A word, an answer, an error, or a latent's number and the beginning of what it says."""
    if node.kind in ("token", "answer", "thought"):
        return visible(node.text)
    if node.kind == "error":
        return "error"
    says = visible((node.says or "").split(" (")[0].split("; or ")[0])
    return f"{node.latent} {shorten(says, SAYS)}".strip()


def _named(route: str) -> str:
    if route.endswith(":kv"):
        return f"keys and values, {route.removesuffix(':kv')}"
    return {"state": "state", "within": "within a thought"}.get(route, route)
