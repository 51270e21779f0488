"""Graphs as figures for papers, and the circuit of a class as one."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from thoughtlens.core import Number
from thoughtlens.show import class_graph, graph_map, save
from thoughtlens.tracing import (
    CircuitOutcome,
    Cut,
    EdgeRow,
    Graph,
    GraphEdge,
    GraphNode,
    Node,
    for_viewers,
)
from thoughtlens.tracing.circuit.records import Arm


def edge(source, target, route, flow, variable="start"):
    measured = {"attribution": 0.3, "effect": 0.8, "low": 0.7, "high": 0.9, "at_random": 0.1}
    ways = {"variable": variable, "source": source, "target": target, "route": route, "flow": flow}
    return EdgeRow(arm="thoughts", varies=2.0, p=0.0, q=0.0, shown=True, n=60, **measured, **ways)


PLACES = {"question: start": None, "thought 0": 0, "thought 1": 1, "answer": None}
CIRCUIT = CircuitOutcome(
    split="test",
    model="codi-tiny",
    model_digest=None,
    n=60,
    n_steps=2,
    rank_correlation=0.7,
    slope=0.8,
    nodes=[Node(name=name, thought_idx=thought, varies={}) for name, thought in PLACES.items()],
    edges=[
        edge("question: start", "thought 0", "layers.0:kv", 0.9),
        edge("thought 0", "thought 1", "state", 0.95),
        edge("thought 0", "thought 1", "state", 0.2, "op1"),
        edge("thought 1", "answer", "layers.1:kv", 1.0),
    ],
    cuts=[Cut(name="cut best", about="3 edges", n_edges=3, accuracy=Number(value=0.02))],
    arms=[Arm(name="thoughts", n=60, n_tried=40, n_shown=4, n_state=2, flow={})],
)


def texts(figure):
    return {label.get_text() for label in figure.axes[0].texts}


def test_the_circuit_of_a_class_is_a_graph_of_whole_thoughts():
    graph = class_graph(CIRCUIT)
    assert graph.columns == ["question", "thought 0", "thought 1", "answer"]
    assert [(one.source, one.variable) for one in graph.edges] == [
        ("thought 1", "start"), ("thought 0", "start"), ("question: start", "start"), ("thought 0", "op1")
    ]  # fmt: skip
    assert next(node.says for node in graph.nodes if node.id == "thought 1") == "start, op1"
    assert (graph.n_tried, graph.cuts[0].value) == (40, 0.02)
    assert len({node["node_id"] for node in for_viewers(graph)["nodes"]}) == 4
    untested = [replace(CIRCUIT.cuts[0], accuracy=Number(value=None, n=0))]
    assert class_graph(replace(CIRCUIT, cuts=untested)).cuts == []


def test_a_figure_has_every_node_that_an_edge_touches_and_a_colour_for_each_route(tmp_path):
    figure = graph_map(class_graph(CIRCUIT))
    assert {"start", "thought 0", "thought 1", "answer"} <= texts(figure)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["keys and values, layers.1", "state", "keys and values, layers.0"]
    for suffix in ("svg", "png", "pdf"):
        save(figure, tmp_path / f"out.{suffix}")
        assert (tmp_path / f"out.{suffix}").stat().st_size > 1000


def test_a_graph_in_which_nothing_stands_out_is_drawn_without_arrows_and_its_words_as_they_are(tmp_path):
    nodes = [
        GraphNode(id="w", kind="token", column=0, text="3"),
        GraphNode(id="l", kind="latent", column=1, row=0, latent=4, says="value = 3 (thought 1); or other"),
        GraphNode(id="a", kind="answer", column=2, text="8"),
    ]
    tried = GraphEdge(source="w", target="l", route="layers.0:kv", attribution=0.0, effect=0.0, shown=False)
    graph = Graph(
        name="g",
        model="m",
        text="3",
        answer="8",
        columns=["3", "thought 1", "answer"],
        rows=["layers.0:out"],
        nodes=nodes,
        edges=[tried],
        n_tried=1,
    )
    assert texts(graph_map(graph)) == {"3", "8"}
    assert graph_map(graph).axes[0].get_title("left") == "No edge is shown, of 1 that were tried"
    shown = replace(graph, edges=[replace(tried, shown=True)])
    assert texts(graph_map(shown)) == {"3", "8", "4 value = 3"}
    hostile = [replace(nodes[0], text="$\\frac$\x1b"), replace(nodes[1], says="$a$ <script>"), nodes[2]]
    figure = graph_map(replace(shown, nodes=hostile))
    assert texts(figure) == {"$\\frac$<U+001B>", "8", "4 $a$ <script>"}
    save(figure, tmp_path / "hostile.svg")
    drawn = ElementTree.parse(tmp_path / "hostile.svg")
    assert not [part for part in drawn.iter() if part.tag.endswith("script")]
