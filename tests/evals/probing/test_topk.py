"""Accuracy at k: the right features, chosen in the training folds only."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from thoughtlens.evals.probing import probes, topk
from thoughtlens.evals.probing.features import association, one_hot


def test_association_by_hand():
    y = np.array([0, 0, 1, 1])
    X = np.array([[0.0, 1, 5], [0, 3, 5], [2, 1, 5], [2, 3, 5]])
    # column 0 is the class: all of its variance; column 1 has class means 2 and 2: none; column 2 is constant
    everyone = np.ones(4, bool)
    for own in (X, sp.csr_array(X)):
        assert association(own, one_hot(y, 2), everyone, classes=True) == pytest.approx([1, 0, 0])
    # of the first three rows column 1 is 1, 3, 1: mean 5/3, variance 8/9; class means 2 and 1, between
    # (2 (1/3)^2 + (2/3)^2) / 3 = 2/9
    kept = np.array([True, True, True, False])
    assert association(X, one_hot(y, 2), kept, classes=True)[1] == pytest.approx(0.25)
    value = np.array([1.0, 2, 3, 4])
    found = association(X, one_hot(value, None), everyone, classes=False)
    assert found[:2] == pytest.approx([np.corrcoef(X[:, i], value)[0, 1] ** 2 for i in range(2)])


@pytest.mark.parametrize("sparse", [False, True])
def test_two_features_are_enough_and_are_the_right_ones(sparse):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 180)
    X = np.maximum(rng.normal(size=(180, 30)) - 1, 0)
    X[:, 11], X[:, 4] = 3 * (y == 1), 3 * (y == 2)
    folds = probes.make_folds(y, np.arange(180), n_splits=3, n_inner=2)
    found = topk.at_k(sp.csr_array(X) if sparse else X, y, folds, n_classes=3, ks=(1, 2, 8))
    right = {k: (p.pred == y).mean() for k, p in found.probes.items()}
    assert 0.55 < right[1] < 0.8 and right[2] == 1.0
    assert {frozenset(own[:2].tolist()) for own in found.chosen} == {frozenset({4, 11})}
    chosen, which = probes.select(list(found.probes.values()), folds)
    assert all(i > 0 for i in which) and (chosen.pred == y).all()


def test_noise_that_is_chosen_on_training_units_scores_at_chance():
    # Choosing 8 of 2,000 noise features on all units would score far above chance.
    rng = np.random.default_rng(1)
    y, X = rng.integers(0, 2, 120), rng.normal(size=(120, 2000))
    folds = probes.make_folds(y, np.arange(120), n_splits=4, n_inner=2)
    found = topk.at_k(X, y, folds, n_classes=2, ks=(8,))
    assert abs((found.probes[8].pred == y).mean() - 0.5) < 0.15


def test_k_beyond_the_features_is_all_of_them():
    rng = np.random.default_rng(2)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 3)) + y[:, None]
    folds = probes.make_folds(y, np.arange(60), n_splits=3, n_inner=2)
    assert list(topk.at_k(X, y, folds, n_classes=2, ks=(2, 64)).probes) == [2, 3]
