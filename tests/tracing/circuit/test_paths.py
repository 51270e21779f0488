"""Direct paths on a linear model, whose effects are its matrices, and add up to the whole."""

from __future__ import annotations

import pytest
import torch

from tests.tracing.circuit.linear import THOUGHTS, Linear
from thoughtlens.tracing.circuit.paths import OTHER, Course, Edge, places, trials, without, words_of


@pytest.fixture(scope="module")
def pair():
    model = Linear()
    own, twin = (Course.of(model, model.encode(asked)) for asked in (["1 2 3", "2 0 1"], ["1 5 3", "2 4 1"]))
    return own, twin, places(own, words_of(own, twin), "second")


@pytest.fixture(scope="module")
def tried(pair):
    own, twin, sources = pair
    spread = [torch.ones(left.shape[1]) for left in own.left]
    return {one.edge: one for one in trials(own, twin, sources, spread, seed=0)}


def test_the_words_that_differ_are_found_by_their_keys(pair):
    _, _, sources = pair
    assert sources["question: second"].tolist() == [[False, True] + [False] * 5] * 2
    assert sources[OTHER].tolist() == [[True, False, True] + [False] * 4] * 2


def test_effects_are_those_of_the_matrices(pair, tried):
    own, twin, _ = pair
    change = [b - a for a, b in zip(own.left, twin.left, strict=True)]
    word = (twin.states[0].cache[1] - own.states[0].cache[1])[:, 0, 1]
    onto = change[0][:, : word.shape[1]]
    torch.testing.assert_close(
        tried[Edge("question: second", 0, "layers.0:kv")].moved, (word * onto).sum(1), atol=1e-4, rtol=1e-5
    )
    model = own.model
    fed = twin.states[2].pending[:, 0] - own.states[2].pending[:, 0]
    made = torch.cat([fed @ model.A, fed, fed @ model.V], 1)
    torch.testing.assert_close(
        tried[Edge("thought 1", 2, "state")].moved, (made * change[2]).sum(1), atol=1e-3, rtol=1e-5
    )


def test_of_a_linear_model_direct_effects_add_up_and_the_slope_foretells_them(tried):
    for target in range(THOUGHTS + 2):
        into = [one for edge, one in tried.items() if edge.target == target]
        total = sum(one.moved for one in into)
        torch.testing.assert_close(total, into[0].whole, rtol=1e-5, atol=1e-3)
        for one in into:
            torch.testing.assert_close(one.slope, one.moved, rtol=1e-2, atol=1e-1)


def test_an_edge_that_carries_nothing_moves_nothing(tried):
    assert not tried[Edge(OTHER, 1, "layers.0:kv")].moved.any()


def test_all_edges_cut_give_the_donors_answer_and_none_the_own(pair, tried):
    own, twin, sources = pair
    model = own.model
    for cut, expected in (({*tried}, twin), (set(), own)):
        end = without(own, twin, cut, sources)
        torch.testing.assert_close(model.answer(end, 0).logits, model.answer(expected.states[-1], 0).logits)
