"""A graph's own JSON loses nothing, and that for viewers has all that circuit-tracer and Neuronpedia ask."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from thoughtlens.core import ThoughtlensError
from thoughtlens.tracing import Graph, GraphEdge, GraphNode, for_viewers, place_of_graph, write_for_viewers


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Metadata(Strict):
    slug: str
    scan: str
    transcoder_list: list[str]
    prompt_tokens: list[str]
    prompt: str
    node_threshold: float | None
    schema_version: int


class QParams(Strict):
    pinnedIds: list[str]
    supernodes: list[list[str]]
    linkType: str
    clickedId: str
    sg_pos: str


class Node(Strict):
    node_id: str
    feature: int | None
    layer: str
    ctx_idx: int
    feature_type: str
    token_prob: float
    is_target_logit: bool
    run_idx: int
    reverse_ctx_idx: int
    jsNodeId: str
    clerp: str
    influence: float | None
    activation: float | None


class Link(Strict):
    source: str
    target: str
    weight: float


class Theirs(Strict):
    """What circuit-tracer's `Model` and Neuronpedia's schema ask of a file, both at once."""

    metadata: Metadata
    qParams: QParams
    nodes: list[Node]
    links: list[Link]


@pytest.fixture
def graph():
    nodes = [
        GraphNode(id="word", kind="token", column=0, text=" 3", token_id=7, share=0.2),
        GraphNode(id="early", kind="latent", column=1, row=0, latent=5, activation=2.0, share=0.5),
        GraphNode(id="left", kind="error", column=1, row=0, activation=0.5, share=-0.1),
        GraphNode(id="late", kind="latent", column=2, row=1, latent=4, says="value = 3", share=0.2),
        GraphNode(id="end", kind="answer", column=2, text="8", token_id=9, probability=0.75),
    ]  # fmt: skip
    edges = [
        GraphEdge(source="word", target="early", route="layers.0:kv", attribution=1.0, effect=1.5),
        GraphEdge(source="early", target="late", route="state", attribution=0.5, effect=0.25, q=0.01),
        GraphEdge(source="early", target="late", route="layers.1:kv", attribution=0.5, effect=0.5),
        GraphEdge(source="late", target="end", route="layers.1:kv", attribution=0.1, effect=2.0),
        GraphEdge(source="left", target="late", route="state", attribution=0.1, effect=0.0, shown=False),
    ]  # fmt: skip
    return Graph(
        name="problem-3",
        model="codi-tiny",
        text="3 + 5",
        answer="8",
        columns=[" 3", "thought 0", "thought 1"],
        rows=["layers.0:out", "layers.1:out"],
        nodes=nodes,
        edges=edges,
        n_tried=7,
    )


def test_a_graph_comes_back_from_its_json(graph):
    assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph


def test_viewers_get_every_field_that_their_schema_asks_for(graph):
    Theirs.model_validate(for_viewers(graph))


def test_nodes_are_named_and_counted_as_circuit_tracer_does(graph):
    nodes = {node["node_id"]: node for node in for_viewers(graph)["nodes"]}
    assert [*nodes] == ["E_7_0", "0_5_1", "0_-1_1", "1_4_2", "3_9_2"]
    assert nodes["1_4_2"]["feature"] == (1 + 4) * (1 + 4 + 1) // 2 + 4
    assert [node["jsNodeId"] for node in nodes.values()] == ["E_7-0", "0_5-0", "0_-1-1", "1_4-0", "L_9-2"]
    assert nodes["3_9_2"]["clerp"] == 'Output "8" (p=0.750)' and nodes["1_4_2"]["clerp"] == "value = 3"


def test_influence_is_the_share_of_the_nodes_that_carry_as_much_or_more(graph):
    # |shares| 0.5, 0.2, 0.2, 0.1 of 1.0 in descending order
    found = {node["node_id"]: node["influence"] for node in for_viewers(graph)["nodes"]}
    assert found == pytest.approx({"0_5_1": 0.5, "E_7_0": 0.7, "1_4_2": 0.9, "0_-1_1": 1.0, "3_9_2": None})


def test_routes_between_two_nodes_add_up_and_edges_that_do_not_stand_are_left_out(graph):
    links = {(one["source"], one["target"]): one["weight"] for one in for_viewers(graph)["links"]}
    assert links == {("E_7_0", "0_5_1"): 1.5, ("0_5_1", "1_4_2"): 0.75, ("1_4_2", "3_9_2"): 2.0}


def test_a_folder_lists_its_graphs_once_each(graph, tmp_path):
    for one in (graph, replace(graph, name="problem-4"), replace(graph, answer="9")):
        file = write_for_viewers(one, tmp_path)
        read: Any = json.loads(file.read_text())
        assert read["metadata"]["slug"] == one.name
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [one["slug"] for one in listed] == ["problem-4", "problem-3"]
    (tmp_path / "graph-metadata.json").write_text("[]")
    with pytest.raises(ThoughtlensError, match="list of graphs"):
        write_for_viewers(graph, tmp_path)


def test_problems_that_differ_in_a_sign_have_graphs_of_their_own_and_old_ones_are_found(tmp_path):
    ways = [place_of_graph(tmp_path, "problem", one).name for one in ("3-2", "3+2", "3*2", "any-3-000001")]
    assert len({*ways}) == 4 and {ways[0], ways[3]} == {"problem-3-2", "problem-any-3-000001"}
    old = tmp_path / "graphs" / "text-the-cat-sat"
    old.mkdir(parents=True)
    (old / "config.toml").write_text('text = "The cat"\ntarget = " sat"\n')
    assert place_of_graph(tmp_path, "text", "The cat", " sat") == old
    assert place_of_graph(tmp_path, "text", "The cat sat") != old
