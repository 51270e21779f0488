"""Token graphs of latents whose trigger is known, found with a function in place of a model."""

from __future__ import annotations

import numpy as np
import pytest

from tests.latents.explain.words import NAMES, PLANTED, FunctionProbe, part, texts
from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.graphs import token_graphs
from thoughtlens.latents.explain.token_graph import MOST_WIDENED, Example, Limits, find_patterns, most_asked
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


def test_a_long_question_is_taken_apart_with_a_bounded_number_of_runs():
    """Of 500 words 7 and 9 count; the latent fires while both are there, whatever else is."""
    n_asked = []

    def probe(sequences, _):
        n_asked.append(len(sequences))
        return np.array([float({7, 9} <= set(one.tolist())) for one in sequences])

    words = np.r_[np.full(100, 4), 7, np.full(300, 5), 9, np.full(98, 6)]
    limits = Limits(context=500, importance=0.5, whole=True)
    (found,) = find_patterns([Example(0, words, 1.0, masks=(4, 5))], probe, lambda token: [token], limits)
    assert [item.tokens for item in found[0].items] == [(9,), (7,)]
    assert n_asked == [1, 63, 64, 2] and sum(n_asked) <= most_asked(
        500, 1
    )  # 63 runs of 8; 8 of them word by word


def test_of_a_question_in_which_all_words_count_only_some_are_replaced():
    n_asked = []

    def probe(sequences, _):
        n_asked.append(len(sequences))
        return np.array([float(np.array_equal(one, words)) for one in sequences])

    words = np.arange(10, 70)
    limits = Limits(context=60, importance=0.5, whole=True)
    (found,) = find_patterns([Example(0, words, 1.0, masks=(4, 5))], probe, lambda token: [1, 2], limits)
    assert found[0].concrete == 60
    assert n_asked == [1, 60, 2 * MOST_WIDENED] and sum(n_asked) == most_asked(60, 2)
