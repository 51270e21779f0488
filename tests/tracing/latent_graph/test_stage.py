"""Graphs of single problems of the shipped model, with a dictionary of its thoughts' own directions."""

from __future__ import annotations

import json

import pytest
import torch

from thoughtlens import sae as saes
from thoughtlens.acts import ActivationStore
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.cli.commands.app import app
from thoughtlens.core import (
    DataError,
    NotThereError,
    OccupiedError,
    ThoughtlensError,
    read_rows,
    validate_config,
)
from thoughtlens.models.thought import tiny
from thoughtlens.models.thought.tiny_decoder import TinyDecoder
from thoughtlens.tracing import Graph, GraphEdge, GraphOutcome, graphs_in, name_of, read_graph
from thoughtlens.tracing.graphs.records import carried
from thoughtlens.tracing.latent_graph.config import GraphConfig
from thoughtlens.tracing.latent_graph.stage import graph, plan

pytestmark = pytest.mark.slow  # fixtures of seconds

HOOKS = ("layers.0:out", "layers.1:out")
D, K = 96, 3


def dictionary(place, hooks, mean):
    """The coordinates above and below their mean, of which the K largest fire."""
    sae = saes.create(saes.TopKConfig(d_sae=2 * D, k=K, normalization="none"), D, seed=0)
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    with torch.no_grad():
        sae.W_dec.copy_(both)
        sae.W_enc.copy_(both.T)
        sae.b_dec.copy_(mean)
    sae.hook_names, sae.provenance = list(hooks), {"split": "train", "thoughts": None}
    saes.save(sae, place)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    table = {"model": {"name": "codi-tiny"}, "problems": {"source": "generated", "n": 200}, "seed": 3}
    extract(validate_config(ExtractConfig, table), root / "acts")
    store = ActivationStore.open(root / "acts")
    for hook in HOOKS:
        rows = store.view(hook_names=[hook]).sample(1000, seed=0).x
        dictionary(root / "sae" / hook.replace(":", "-"), [hook], rows.mean(0))
    return root


def made(run, out, **settings):
    cfg = GraphConfig(acts=run / "acts", sae=run / "sae", n_random=4, n_others=16, n_donors=2, **settings)
    return GraphOutcome.from_json(graph(cfg, out))


@pytest.fixture(scope="module")
def found(run):
    out = run / "graphs" / name_of("problem", "any-3-000001")
    return out, made(run, out, problem="any-3-000001", budget=80)


def test_every_edge_leads_on_and_ends_at_a_node(found):
    _, outcome = found
    nodes = {node.id: node for node in outcome.nodes}
    for edge in outcome.edges:
        assert nodes[edge.source].column < nodes[edge.target].column or edge.route == "within"
        assert edge.low <= edge.effect <= edge.high
    assert [node.kind for node in outcome.nodes].count("answer") == 1
    latents = [node for node in outcome.nodes if node.kind == "latent"]
    assert {node.hook_name for node in latents} <= {*HOOKS} and {node.member for node in latents} <= {
        hook.replace(":", "-") for hook in HOOKS
    }


def test_the_budget_is_said_and_kept(found):
    out, outcome = found
    assert outcome.n_tried == 80 < outcome.n_candidates
    assert any("budget of 80" in line for line in outcome.warnings)
    rows = read_rows(out / "edges.parquet", GraphEdge)
    assert len(rows) == 80 and [row for row in rows if row.shown] == outcome.edges
    assert all(row.q >= row.p for row in rows)


def test_the_slope_foretells_effects_in_part(found):
    _, outcome = found
    assert outcome.rank_correlation > 0


def test_viewers_get_the_graph(found):
    out, outcome = found
    table = json.loads((out / "viewers" / f"{outcome.name}.json").read_text())
    assert table["metadata"]["prompt_tokens"] == outcome.columns
    assert {link["target"] for link in table["links"]} <= {node["node_id"] for node in table["nodes"]}


def test_a_run_lists_its_graphs(run, found):
    out, outcome = found
    assert graphs_in(run) == {out.name: out}
    kept = read_graph(out)
    assert type(kept) is Graph and kept.edges == outcome.edges


def test_a_question_of_ones_own_and_its_missing_places(run, tmp_path):
    question = "ann +3 *4 bob -2 +5 ann 7 twice"
    outcome = made(run, tmp_path / "own", problem=question, budget=20, member="layers.0-out")
    assert outcome.text == question and outcome.problem_id is None
    (line,) = [line for line in outcome.warnings if "no SAE reads" in line]
    assert "layers.1:out at thoughts 0, 1, 2, 3, 4, 5: " in line and "counted as error" in line


def test_a_graph_that_holds_little_of_the_answer_says_so(found):
    _, outcome = found
    lines = [line for line in outcome.warnings if "most of what makes it is not in this graph" in line]
    assert len(lines) == (bool(outcome.edges) and outcome.share_shown < 0.5)
    assert carried(3, 0.04, 0.6) == [
        "what is shown carries 4% of the answer, errors 60%: most of what makes it is not in this graph"
    ]
    assert carried(3, 3.1, -2.0) == [
        "what is shown carries 310% of the answer, errors -200%: other ways take much of it away"
    ]
    assert carried(3, 0.9, 0.1) == [] == carried(3, None, None)
    assert carried(0, None, None) == ["no edge stands out from random directions: the graph is empty"]


def test_what_is_not_there_is_said_in_a_line(run, tmp_path):
    with pytest.raises(NotThereError, match=r"problem_id of .*any-3-000000"):
        made(run, tmp_path / "none", problem="99")
    with pytest.raises(ThoughtlensError, match="member: expected one of"):
        made(run, tmp_path / "none", problem="any-3-000001", member="pooled")
    assert plan(GraphConfig(acts=run / "acts", sae=run / "sae", problem="1")).rows


def test_a_transcoder_is_not_read_as_an_sae(run, tmp_path):
    coder = saes.create(saes.TranscoderConfig(d_sae=8, k=2), D, seed=0, d_out=D)
    coder.hook_names, coder.provenance = [HOOKS[0]], {}
    saes.save(coder, tmp_path / "sae")
    cfg = GraphConfig(acts=run / "acts", sae=tmp_path / "sae", problem="any-3-000001")
    with pytest.raises(ThoughtlensError, match="reconstruct"):
        graph(cfg, tmp_path / "none")


def test_a_model_of_one_answer_has_no_graph(tmp_path):
    shipped = tiny.load("codi-tiny").cfg
    decoder = TinyDecoder(shipped.model_copy(update={"n_layers": 1, "n_thoughts": 1, "d_in": 12}))
    torch.nn.init.zeros_(decoder.embed.weight)
    tiny.save(decoder, tmp_path / "model", {"seed": 0, "variant": "thoughts"})
    table = {"model": {"name": str(tmp_path / "model")}, "problems": {"source": "generated", "n": 20}}
    extract(validate_config(ExtractConfig, table), tmp_path / "acts")
    sae = saes.create(saes.TopKConfig(d_sae=2, k=1, normalization="none"), 12, seed=0)
    sae.hook_names, sae.provenance = ["layers.0:out"], {"split": "train", "thoughts": None}
    saes.save(sae, tmp_path / "sae")
    with pytest.raises(DataError, match="is the same in other problems"):
        made(tmp_path, tmp_path / "none", problem="any-0-000001")


def test_a_figure_is_of_the_problem_that_was_asked_about(run, found, tmp_path):
    out, _ = found
    app(
        ["circuit", str(run), "--problem", "any-3-000001", "--figure", str(tmp_path / "a.svg")],
        standalone_mode=False,
    )
    assert (tmp_path / "a.svg").is_file()
    other = ["circuit", str(run), "--problem", "any 3 000001", "--out", str(out)]
    with pytest.raises(OccupiedError, match=out.name):
        app([*other, "--figure", str(tmp_path / "b.svg")], standalone_mode=False)
    assert not (tmp_path / "b.svg").exists()
