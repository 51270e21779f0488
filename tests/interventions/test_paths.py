"""Path patching: one edge by hand, all edges at once, the control, and what is refused."""

from __future__ import annotations

import pytest
import torch

from thoughtlens.core import ThoughtlensError, validate_config
from thoughtlens.interventions.edits.reads import Read
from thoughtlens.interventions.edits.run import Edit, run_edits
from thoughtlens.interventions.intervene.config import InterveneConfig
from thoughtlens.interventions.intervene.plans import plans
from thoughtlens.interventions.intervene.records import About
from thoughtlens.interventions.intervene.stage import intervene
from thoughtlens.models import load_model
from thoughtlens.problems import arithmetic

TABLE = {"model": {"name": "codi-tiny", "dtype": "float32"}, "problems": {"source": "generated"}, "n": 24}


@pytest.fixture(scope="module")
def model():
    return load_model("codi-tiny")


@pytest.fixture(scope="module")
def trial(model):
    (found,) = plans(validate_config(InterveneConfig, TABLE | {"edit": {"kind": "path"}}), model)
    return found


def own(trial):
    return [one for chunk in trial.chunks for one in chunk if one.about.control is None]


def ends(model, questions):
    """All states of a run by hand: before each thought, and after the last."""
    states = [model.encode(questions)]
    for _ in model.spec.thoughts:
        states.append(model.step(states[-1])[0])
    return states


def test_all_edges_together_are_the_whole_twin(model, trial):
    edits = own(trial)
    together = Edit(
        About(edit="all"),
        tuple(change for one in edits for change in one.changes),
        reads=tuple(read for one in edits for read in one.reads),
    )
    _, (found,) = run_edits(model, trial.problems.questions, [together], batch_size=7)
    assert found.text == trial.problems.corrupted


def test_one_edge_is_what_the_model_does_by_hand(model):
    first, second = (t["question"].to_pylist() for t in arithmetic.twins(6, seed=1, change="start", p=23))
    mine, twin = ends(model, first), ends(model, second)
    length = mine[0].mask.shape[1]
    where = torch.zeros(6, length + 7, dtype=torch.bool)
    where[:, length + 3] = True
    read = Read(layer=0, query=4, where=where, begin=length, donors=second)
    _, (found,) = run_edits(model, first, [Edit(About(edit="one"), reads=(read,))])
    changed, parts = model.clone(mine[4]), [part.clone() for part in model._memory(mine[4], 0)]
    for part, other in zip(parts, model._memory(twin[-1], 0), strict=True):
        part[:, :, length + 3] = other[:, :, length + 3]
    model._remember(changed, 0, *parts)
    after, _ = model.step(changed)
    for layer in range(2):
        kept = [
            torch.cat([old, new[:, :, -1:]], 2)
            for old, new in zip(model._memory(mine[4], layer), model._memory(after, layer), strict=True)
        ]
        model._remember(after, layer, *kept)
    for _ in range(2):
        after, _ = model.step(after)
    plain, edited = (model.answer(x, 0).logits[:, 0].double().log_softmax(-1) for x in (mine[-1], after))
    expected = (plain.exp() * (plain - edited)).sum(1)
    torch.testing.assert_close(torch.tensor(found.kl), expected, rtol=1e-3, atol=1e-9)
    assert found.reached.all() and (found.changed_site > 0).all() and (expected > 1).all()


def test_sources_are_the_words_that_differ_the_others_and_each_thought(model, trial):
    edges = {
        (one.about.source, one.about.thought_idx, one.about.layer): one for one in own(trial) if one.reads
    }
    state = ends(model, trial.problems.questions)[-1]
    begin = state.mask.shape[1] - 7
    changed, other, third = (
        edges[source, 7, 0].reads[0].chosen(state, begin)
        for source in ("changed words", "other words", "thought 3")
    )
    assert (changed.sum(1) == 1).all() and not (changed & other).any()
    assert ((changed | other)[:, :begin] == state.mask[:, :begin]).all()
    assert third.sum() == len(third) and third[:, begin + 3].all()
    states = [one.about for one in own(trial) if one.changes]
    assert [(about.source, about.thought_idx) for about in states] == [
        (f"thought {p - 1}", p) for p in range(1, 7)
    ]


def test_the_control_is_as_far_away_whatever_the_batch(model, trial):
    bundle = trial.chunks[-1]
    pair = [one for one in bundle if one.about.source == "thought 6" and one.about.layer == 1]
    assert [one.about.control for one in pair] == [None, "random"]
    questions = trial.problems.questions
    _, (edge, drawn) = run_edits(model, questions, pair)
    assert drawn.changed_site == pytest.approx(edge.changed_site, rel=1e-4) and (drawn.kl > 0).all()
    _, (_, single) = run_edits(model, questions, pair, batch_size=3)
    torch.testing.assert_close(torch.tensor(drawn.kl), torch.tensor(single.kl), atol=1e-6, rtol=1e-3)


def test_the_stage_finds_what_the_answer_reads(tmp_path):
    cfg = TABLE | {"edit": {"kind": "path", "sources": ["5", "6"]}, "thoughts": [6], "controls": False}
    rows = intervene(validate_config(InterveneConfig, cfg), tmp_path / "path")["effects"]
    assert [(row["source"], row["site"], row["thought_idx"]) for row in rows] == [
        ("thought 5", "thought_in", 6), ("thought 5", "kv", 6), ("thought 5", "kv", 6),
        *[(f"thought {p}", "kv", 7) for p in (5, 5, 6, 6)],
    ]  # fmt: skip
    assert rows[-1]["corrupted"] > 0.9 > 0.1 > rows[0]["corrupted"]
    assert all(row["changed_site"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"edit": {"kind": "path", "sources": ["words"]}}, "expected changed words, other words, thoughts"),
        ({"edit": {"kind": "path", "sources": ["9"]}}, "sources: expected 0..6"),
        ({"edit": {"kind": "path"}, "thoughts": [8]}, "thoughts: expected 0..6"),
        ({"edit": {"kind": "path"}, "layers": [2]}, "layers: expected 0..1"),
        ({"edit": {"kind": "path"}, "site": "kv"}, "leave site out"),
        ({"edit": {"kind": "path", "sources": ["6"], "answer": False}, "thoughts": [2]}, "no edge"),
    ],
)
def test_what_has_no_edge_is_refused_in_one_line(model, changed, says):
    with pytest.raises(ThoughtlensError, match=says) as error:
        plans(validate_config(InterveneConfig, TABLE | changed), model)
    assert str(error.value).count("\n") <= 1
