"""Graphs in the form that the viewers of circuit-tracer and Neuronpedia read.

A graph is one JSON file with `metadata`, `qParams`, `nodes` and `links`; circuit-tracer's server also wants
the list `graph-metadata.json` beside it. Their viewers draw features by (layer, position): the layer is a
graph's row, the position its column. Source: circuit-tracer, frontend/graph_models.py, and Neuronpedia,
graph-schema.json, both read 2026-11.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from thoughtlens.core import ConfigError, Json, whole
from thoughtlens.tracing.graphs.records import Graph, GraphNode

INDEX = "graph-metadata.json"
EDGES_SAY = (
    "Weights are effects that were measured by interventions, each less that of an equally long random "
    "direction, routes between two nodes added up; edges that did not stand are left out."
)
TYPES = {
    "token": "embedding",
    "latent": "cross layer transcoder",
    "thought": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "answer": "logit",
}
"""Kind of a node in their words; they have one for all features."""


def for_viewers(graph: Graph) -> Json:
    """The graph as their JSON."""
    cumulative = _cumulative(graph.nodes)
    return {
        "metadata": {
            "slug": graph.name,
            "scan": graph.model,
            "transcoder_list": [],
            "prompt_tokens": graph.columns,
            "prompt": graph.text,
            "node_threshold": 1.0,
            "schema_version": 1,
            "info": {"description": EDGES_SAY, "generator": {"name": "thoughtlens"}},
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [_node(graph, node, cumulative) for node in graph.nodes],
        "links": _links(graph),
    }


def write_for_viewers(graph: Graph, folder: Path) -> Path:
    """`NAME.json` in a folder, which may hold other graphs, and its line in the folder's list.

    Raises:
        ConfigError: the list is damaged, or is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, index = for_viewers(graph), folder / INDEX
    try:
        listed = json.loads(index.read_text("utf-8"))["graphs"] if index.is_file() else []
        others = [one for one in listed if one["slug"] != graph.name]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"Expected a list of graphs in {index}, found something else; move it away"
        ) from None
    for file, content in (
        (folder / f"{graph.name}.json", table),
        (index, {"graphs": [*others, table["metadata"]]}),
    ):
        with whole(file) as part:
            part.write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")
    return folder / f"{graph.name}.json"


def _name(graph: Graph, node: GraphNode) -> str:
    """`layer_feature_position`, by which links call a node."""
    return f"{_layer(graph, node)}_{_number(node)}_{node.column}"


def _layer(graph: Graph, node: GraphNode) -> str:
    if node.kind == "token":
        return "E"
    return str(len(graph.rows) + 1 if node.kind == "answer" else node.row or 0)


def _number(node: GraphNode) -> int:
    """Latent or token; -1 of an error, which has none."""
    found = node.latent if node.kind in ("latent", "thought") else node.token_id
    return -1 if node.kind == "error" else found or 0


def _node(graph: Graph, node: GraphNode, cumulative: Mapping[str, float]) -> Json:
    layer, number = _layer(graph, node), _number(node)
    feature = {"token": node.column, "error": -1, "answer": number}.get(node.kind)
    start = "L" if node.kind == "answer" else layer
    place = 0 if node.kind in ("latent", "thought") else node.column
    return {
        "node_id": _name(graph, node),
        "feature": _paired(int(layer), number) if feature is None else feature,
        "layer": layer,
        "ctx_idx": node.column,
        "feature_type": TYPES[node.kind],
        "token_prob": node.probability or 0.0,
        "is_target_logit": node.kind == "answer",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{start}_{number}-{place}",
        "clerp": _words(node),
        "influence": cumulative.get(node.id),
        "activation": node.activation,
    }


def _words(node: GraphNode) -> str:
    if node.kind == "answer":
        return f'Output "{node.text}" (p={node.probability or 0.0:.3f})'
    return node.says or node.text


def _paired(layer: int, number: int) -> int:
    """One number for two (Cantor), as they count features."""
    return (layer + number) * (layer + number + 1) // 2 + number


def _cumulative(nodes: Sequence[GraphNode]) -> dict[str, float]:
    """By node, the share of all that flows which the nodes hold that carry as much as it or more.

    Their slider hides the nodes above a threshold.
    """
    own = {node.id: abs(node.share) for node in nodes if node.share is not None and node.kind != "answer"}
    total, found, so_far = sum(own.values()), dict[str, float](), 0.0
    for name in sorted(own, key=lambda name: -own[name]):
        so_far += own[name]
        found[name] = so_far / total if total else 1.0
    return found


def _links(graph: Graph) -> list[Json]:
    """Shown edges; their viewers know one between two nodes, so that routes are added up."""
    names = {node.id: _name(graph, node) for node in graph.nodes}
    weight = dict[tuple[str, str], float]()
    for edge in graph.edges:
        if edge.shown:
            ends = names[edge.source], names[edge.target]
            weight[ends] = weight.get(ends, 0.0) + edge.effect
    return [{"source": own, "target": to, "weight": value} for (own, to), value in weight.items()]
