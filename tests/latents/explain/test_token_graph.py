"""Token graphs of latents whose trigger is known, found with a function in place of a model."""

from __future__ import annotations

import numpy as np
import pytest

from tests.latents.explain.words import NAMES, PLANTED, FunctionProbe, part, texts
from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.graphs import token_graphs
from thoughtlens.latents.explain.token_graph import Example, Limits, find_patterns
from thoughtlens.latents.explain.tokens import Neighbours

CFG = ExplainConfig(acts="acts", sae="sae")


def planted(documents):
    """The documents with one in two triggered: words 3, 5 and 7 are put next to one another."""
    rng = np.random.default_rng(1)
    for document in documents:
        for at in rng.choice(len(document) - 4, 3, replace=False):
            pieces = ([3, 7], [3, 5, 7], [3, 4, 8, 7], [9])
            piece = pieces[rng.integers(len(pieces))]
            document[at : at + len(piece)] = piece
    return documents


@pytest.fixture(scope="module")
def graphs():
    fit = part(planted(texts(150, 30, 0)), PLANTED)
    held = part(planted(texts(80, 30, 7)), PLANTED)
    probe = FunctionProbe(PLANTED)
    numbers = list(range(len(PLANTED)))
    acts = {i: fit.column(i) for i in numbers}
    found = token_graphs(fit, acts, probe.bound, Neighbours(fit.tokens, NAMES), CFG)
    return found, held, probe


@pytest.mark.parametrize("latent", range(len(PLANTED)), ids=lambda i: PLANTED[i].__name__)
def test_planted_trigger_is_found_on_held_out_text(graphs, latent):
    found, held, _ = graphs
    acts, predicted = held.column(latent), found[latent].predict(held)
    assert (acts > 0).sum() >= 5
    np.testing.assert_array_equal(predicted > 0, acts > 0)


def test_texts_name_the_trigger(graphs):
    found, _, _ = graphs
    texts_ = {f.__name__: graph.render(NAMES) for f, graph in zip(PLANTED, found.values(), strict=True)}
    assert texts_ == {
        "on_word": '"w7"',
        "on_either": '"w7" or "w9"',
        "word_after_word": '"w7" right after "w3"',
        "with_gap": '"w7" after "w3" (2 tokens between)',
        "within_reach": '"w7" after "w3" (0 to 4 tokens between)',
        "after_two_words": '"w7" right after "w5" right after "w3"',
        "whatever_follows": 'any token right after "w3"',
    }


def test_drawing_has_the_reading_order(graphs):
    drawn = graphs[0][4].drawing(NAMES)
    assert [(n["token"], n["depth"], n["importance"]) for n in drawn["nodes"]] == [("w7", 0, 1), ("w3", 1, 1)]
    assert drawn["edges"] == [[1, 0]] and drawn["gaps"] == [[0, 4]]  # from w3 to w7


def test_an_example_that_the_model_does_not_repeat_gives_no_pattern():
    """The latent is said to fire on word 1, but does not when its context is run by itself."""
    example = Example(0, np.array([4, 1]), 2.0, masks=(5, 6))
    probe = FunctionProbe([lambda tokens: 0.1]).bound([example])
    assert find_patterns([example], probe, lambda token: [], Limits(context=4, importance=0.5)) == [[]]
