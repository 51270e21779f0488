"""Cut edges: against attention by hand, with nothing cut, with controls, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tests.models.thought.fake import N_STEPS, QUESTIONS
from tests.models.thought.plain import CUT, PAIRS, make
from thoughtlens.core import ThoughtlensError, validate_config
from thoughtlens.interventions.edits.cuts import Cut
from thoughtlens.interventions.edits.run import Edit, run_edits
from thoughtlens.interventions.intervene.config import InterveneConfig
from thoughtlens.interventions.intervene.plans import plans
from thoughtlens.interventions.intervene.records import About
from thoughtlens.interventions.intervene.stage import intervene
from thoughtlens.models import load_model


@pytest.fixture(scope="module", params=PAIRS)
def pair(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp("cuts"))


@pytest.fixture
def nothing_cut():
    CUT.clear()
    yield
    CUT.clear()


def edit(*cuts):
    return Edit(About(edit="cut"), cuts=cuts)


def test_a_cut_edge_is_a_logit_of_minus_infinity(pair, nothing_cut):
    model, plain = pair
    answer = N_STEPS + 1
    cuts = [
        (Cut(1, 2, ((-2, -1),)), [(1, 2, -2), (1, 2, -1)]),
        (Cut(0, 4, ((0, 1), (3, 3))), [(0, 4, 0), (0, 4, 1), (0, 4, 3)]),
        (Cut(2, answer, ((1, N_STEPS),)), [(2, answer, p) for p in range(1, answer)]),
    ]
    sets = [edges for _, edges in cuts]
    edits = [edit(cut) for cut, _ in cuts] + [edit(*(cut for cut, _ in cuts))]
    _, found = run_edits(model, QUESTIONS, edits, max_new_tokens=1)
    for i, question in enumerate(QUESTIONS):
        _, logits, n = plain.think(question, "by_hand")
        first = logits.double().log_softmax(-1)
        for own, edges in zip(found, [*sets, [edge for some in sets for edge in some]], strict=True):
            CUT.update((layer, n + q, n + k) for layer, q, k in edges)
            weights, other, _ = plain.think(question, "by_hand")
            CUT.clear()
            assert all(not weights[layer, :, n + q, n + k].any() for layer, q, k in edges)
            kl = (first.exp() * (first - other.double().log_softmax(-1))).sum()
            assert own.kl[i] == pytest.approx(float(kl), rel=2e-2, abs=1e-10) and own.kl[i] > 0
            assert own.reached[i]
        weights, _, _ = plain.think(question, "by_hand")
        lost = weights[1, :, n + 2, [n - 2, n - 1]].sum(-1).mean()
        assert found[0].changed_site[i] == pytest.approx(float(lost), abs=1e-5)


def test_cutting_nothing_changes_nothing(pair):
    model, _ = pair
    plain, (same,) = run_edits(model, QUESTIONS, [edit(Cut(1, 3, ((50, 60),)))], max_new_tokens=4)
    assert same.text == plain.text and not same.moved.any() and not same.kl.any()
    assert not same.reached.any() and not same.changed_site.any()


def test_one_head_is_cut_alone(pair):
    model, _ = pair
    one, both, rest = (edit(Cut(1, 3, ((-1, 2),), heads)) for heads in ((1,), None, (0, 2, 3)))
    _, (a, b, c) = run_edits(model, QUESTIONS, [one, both, rest], max_new_tokens=1)
    assert a.moved.all() and abs(a.kl - b.kl).min() > 0
    # mean over the heads that are cut
    assert (a.changed_site + 3 * c.changed_site) / 4 == pytest.approx(b.changed_site, abs=1e-6)


def test_the_control_cuts_as_many_others_whatever_the_batch(pair):
    model, _ = pair
    own, drawn = Cut(0, 5, ((-3, -1),)), Cut(0, 5, ((-3, -1),), seed=7)
    state = model.encode(QUESTIONS)
    for _ in range(5):
        state, _ = model.step(state)
    begin = state.mask.shape[1] - 5
    a, b = own.chosen(state, begin), drawn.chosen(state, begin)
    assert (a.sum(1) == b.sum(1)).all() and not (a & b).any() and not (b & ~state.mask).any()
    _, (whole,) = run_edits(model, QUESTIONS, [edit(drawn)], max_new_tokens=1)
    _, (single,) = run_edits(model, QUESTIONS, [edit(drawn)], max_new_tokens=1, batch_size=1)
    torch.testing.assert_close(torch.tensor(whole.kl), torch.tensor(single.kl), atol=1e-6, rtol=1e-4)


TABLE = {"model": {"name": "codi-tiny", "dtype": "float32"}, "problems": {"source": "generated"}, "n": 60}


def test_the_stage_cuts_with_controls_and_the_question_is_needed(tmp_path):
    cfg = TABLE | {"edit": {"kind": "cut", "to": ["question"]}, "scope": ["thought", "all"]}
    result = intervene(validate_config(InterveneConfig, cfg), tmp_path / "cut")
    rows = result["effects"]
    assert result["site"] == "attention" and {row["edit"] for row in rows} == {"cut_question"}
    own = {row["thought_idx"]: row for row in rows if not row["control"] and row["scope"] == "thought"}
    assert set(own) == set(range(8))  # thought 7 is the answer
    (everything,) = [row for row in rows if row["scope"] == "all" and not row["control"]]
    assert (
        everything["accuracy"] < 0.3 < everything["accuracy_untouched"] and everything["changed_site"] > 0.3
    )
    assert sum(row["control"] == "random" for row in rows) == len(own) + 1
    assert all(row["n_edited"] == 60 for row in rows if row["scope"] == "thought" and not row["control"])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"edit": {"kind": "cut", "heads": [3]}}, "heads: expected 0..2"),
        ({"edit": {"kind": "cut", "to": ["-16"]}}, "positions -15..6"),
        ({"edit": {"kind": "cut", "to": ["7"]}}, "positions -15..6"),
        ({"edit": {"kind": "cut", "to": ["-1..-3"]}}, "from its first to its last"),
        ({"edit": {"kind": "cut", "to": ["5"], "answer": False}, "thoughts": [2]}, "before none"),
        ({"edit": {"kind": "cut", "to": ["answers"]}}, "expected question, begin, thoughts"),
        ({"edit": {"kind": "cut"}, "site": "kv"}, "leave site out"),
        ({"edit": {"kind": "cut"}, "layers": [2]}, "layers: expected 0..1"),
        ({"edit": {"kind": "cut"}, "thoughts": [9]}, "thoughts: expected 0..6"),
    ],
)
def test_what_cannot_be_cut_is_one_line(changed, says):
    with pytest.raises(ThoughtlensError, match=says) as error:
        plans(validate_config(InterveneConfig, TABLE | changed), load_model("codi-tiny"))
    assert "\n" not in str(error.value)


def test_a_head_and_the_mlp_are_ablated_like_any_state(tmp_path):
    for site in ("head.1", "mlp"):
        cfg = TABLE | {"edit": {"kind": "ablate"}, "site": site, "thoughts": [2], "scope": ["cell"]}
        result = intervene(validate_config(InterveneConfig, cfg), tmp_path / site)
        own = [row for row in result["effects"] if row["thought_idx"] == 2 and not row["control"]]
        assert [row["layer"] for row in own] == [0, 1] and {row["site"] for row in own} == {site}
        assert all(row["changed_site"] > 0 and row["moved"] > 0 for row in own)
