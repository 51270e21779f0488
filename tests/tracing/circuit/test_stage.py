"""The stage on the shipped model, whose routes docs/findings.md knows, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from thoughtlens.acts import ActivationStore, thought_model
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import ThoughtlensError, read_rows, validate_config
from thoughtlens.show.pages.run import Run
from thoughtlens.show.report.circuit import _in_words
from thoughtlens.show.report.circuit import circuit as section_of
from thoughtlens.tracing.circuit.config import CircuitConfig
from thoughtlens.tracing.circuit.records import CircuitOutcome, EdgeRow
from thoughtlens.tracing.circuit.stage import _doubts, _share, _subject, circuit, plan

pytestmark = pytest.mark.slow  # fixtures of seconds

KEY = {
    "start": [("question: start", "thought 2"), ("thought 2", "thought 3"), ("thought 3", "thought 4"),
              ("thought 4", "thought 5"), ("thought 5", "thought 6"), ("thought 6", "answer")],
    "op2": [("question: op2", "thought 3"), ("question: op2", "thought 4"), ("thought 3", "thought 4")],
    "op3": [("question: op3", "thought 5"), ("question: op3", "thought 6"), ("thought 5", "thought 6")],
}  # fmt: skip
"""What carries each variable in three-step problems of codi-tiny, seed 1."""


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    out = tmp_path_factory.mktemp("circuit") / "acts"
    table = {"model": {"name": "codi-tiny"}, "problems": {"source": "generated", "n": 900}, "seed": 3}
    extract(validate_config(ExtractConfig, table), out)
    return out


@pytest.fixture(scope="module")
def found(acts):
    out = acts.parent / "circuit"
    return out, CircuitOutcome.from_json(circuit(CircuitConfig(acts=acts, n=40, n_steps=3), out))


def test_the_known_routes_are_shown(found):
    _, outcome = found
    for variable, edges in KEY.items():
        shown = {(edge.source, edge.target) for edge in outcome.edges if edge.variable == variable}
        assert shown >= {*edges}
    states = {edge.target for edge in outcome.edges if edge.variable == "start" and edge.route == "state"}
    assert states == {"thought 3", "thought 5"}


def test_what_flows_is_nearly_the_whole_change_of_the_answer(found):
    _, outcome = found
    flow = outcome.arms[0].flow
    assert all(0.6 < flow[variable] < 1.2 for variable in KEY)


def test_pause_tokens_have_no_edge_through_a_state(found):
    _, outcome = found
    assert [arm.name for arm in outcome.arms] == ["thoughts", "pause", "shuffled"]
    assert outcome.arms[0].n_state and not outcome.arms[1].n_state


def test_in_the_change_of_another_problem_no_edge_is_found(found):
    _, outcome = found
    assert outcome.arms[2].n_tried == outcome.arms[0].n_tried and not outcome.arms[2].n_shown


def test_strong_edges_are_shown_again_in_other_problems(found):
    _, outcome = found
    assert all(edge.stability is not None and 0 < edge.stability <= 1 for edge in outcome.edges)
    assert all(edge.stability > 0.95 for edge in outcome.edges if edge.flow > 0.5)


def test_cutting_the_best_edges_ruins_answers_and_cutting_others_does_not(found):
    _, outcome = found
    right = {cut.name: cut.accuracy.value for cut in outcome.cuts}
    assert right["cut best"] < 0.3 < 0.8 < right["cut matched"] <= right["untouched"]
    assert right["keep 60"] > 0.7


def test_the_table_holds_every_edge_that_was_tried(found):
    out, outcome = found
    rows = read_rows(out / "edges.parquet", EdgeRow)
    assert [row for row in rows if row.arm == "thoughts" and row.shown] == outcome.edges
    assert sum(row.arm == "thoughts" for row in rows) == outcome.arms[0].n_tried
    assert all(row.q >= row.p for row in rows)


def test_the_report_has_the_graph_and_the_same_numbers(found):
    out, outcome = found
    section = section_of(Run.open(out.parent))
    assert section is not None
    text, picture, cuts, edges = section.blocks
    assert f"{outcome.arms[0].n_tried:,} edges were tried" in text.text
    assert [int(row[1]) for row in cuts.rows] == [cut.n_edges for cut in outcome.cuts]
    assert len(edges.rows) == len(outcome.edges)
    drawn = {label.get_text() for label in picture.figure.axes[0].texts}
    assert {"start", "0", "6", "answer"} <= drawn


def test_spreads_do_not_depend_on_the_batches(acts):
    cfg = CircuitConfig(acts=acts, n=12, n_steps=3)
    store = ActivationStore.open(acts)
    own, _ = _subject(cfg, store, thought_model(store))
    small = replace(own, cfg=cfg.model_copy(update={"batch_size": 5}))
    for whole, batched in zip(own.spread, small.spread, strict=True):
        torch.testing.assert_close(whole, batched, rtol=1e-3, atol=1e-5)
    assert sorted(i for batch in small.batches() for i in batch.rows) == [*range(len(own.table))]


def test_problems_of_other_lengths_or_none_are_refused(acts, tmp_path):
    with pytest.raises(ThoughtlensError, match="problems of 9 steps"):
        circuit(CircuitConfig(acts=acts, n=40, n_steps=9), tmp_path / "none")
    assert plan(CircuitConfig(acts=acts)).rows and not plan(CircuitConfig(acts=tmp_path)).rows


def test_where_no_problem_has_another_of_its_length_nothing_is_said_of_cuts(acts, found):
    _, outcome = found
    own, _ = _subject(
        CircuitConfig(acts=acts, n=4, n_steps=3), store := ActivationStore.open(acts), thought_model(store)
    )
    unknown = _share(own, [], [])
    assert (unknown.value, unknown.n) == (None, 0)
    assert "was not put to the test" in _doubts(outcome.arms, outcome.edges, unknown.value)[0]
    assert "right" in _in_words(outcome)
    cuts = [replace(cut, accuracy=unknown) for cut in outcome.cuts]
    assert "right" not in _in_words(replace(outcome, cuts=cuts))
