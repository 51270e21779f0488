"""Token graphs of latents whose trigger is known, found with a function in place of a model."""

from __future__ import annotations

import numpy as np
import pytest

from tests.explanations.words import NAMES, PLANTED, FunctionProbe, part, texts
from thoughtlens.explanations.config import ExplainConfig
from thoughtlens.explanations.graphs import token_graphs
from thoughtlens.explanations.tokens import Neighbours

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
    acts = [fit.column(i) for i in numbers]
    found = token_graphs(fit, acts, numbers, probe.bound, Neighbours(fit.tokens, NAMES), CFG, 1)
    return found, held, probe


@pytest.mark.parametrize("latent", range(len(PLANTED)), ids=lambda i: PLANTED[i].__name__)
def test_planted_trigger_is_found_on_held_out_text(graphs, latent):
    found, held, _ = graphs
    acts, predicted = held.column(latent), found[latent].predict(held)
    assert (acts > 0).sum() >= 5
    np.testing.assert_array_equal(predicted > 0, acts > 0)
