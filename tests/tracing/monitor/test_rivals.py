"""Linear models of words and states: what a sum over words can tell, and what it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from thoughtlens.numerics.stats.auc import weighted_auc
from thoughtlens.tracing.monitor.rivals import flat, neighbours, places, told

RNG = np.random.default_rng(0)
N = 600
MARKS = RNG.integers(2, size=(N, 2))
QUESTIONS = [
    f"what is {('up', 'down')[a]} for {('ann', 'bob', 'cat')[i % 3]} and {('high', 'low')[b]}"
    for i, (a, b) in enumerate(MARKS)
]
TRAIN = np.arange(N) < 400


def area(X, y):
    found = told(X, y, np.arange(N), TRAIN, seed=0)
    assert np.isnan(found[TRAIN]).all()
    return weighted_auc(y[~TRAIN].astype(int), found[~TRAIN])(np.ones(N - 400))


@pytest.mark.parametrize("features", [neighbours, places])
def test_a_word_that_gives_it_away_is_found(features):
    assert area(features(QUESTIONS), MARKS[:, 0] == 1) > 0.99


@pytest.mark.parametrize("features", [neighbours, places])
def test_the_parity_of_two_words_that_stand_apart_is_not(features):
    assert area(features(QUESTIONS), MARKS[:, 0] != MARKS[:, 1]) < 0.65


def test_labels_of_the_scored_rows_are_not_looked_at():
    y = MARKS[:, 0] == 1
    other = np.where(TRAIN, y, ~y)
    a, b = (told(places(QUESTIONS), one, np.arange(N), TRAIN, seed=0)[~TRAIN] for one in (y, other))
    assert (a == b).all()


def test_a_thought_that_was_not_thought_is_zeros():
    states = np.ones((2, 3, 4))
    states[1, 2] = np.nan
    assert flat(states).shape == (2, 12) and (flat(states)[1, 8:] == 0).all()
