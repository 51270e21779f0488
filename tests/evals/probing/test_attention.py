"""Attention pooling: its gradient is right, and it finds a cell that a mean over cells loses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp

from thoughtlens.core import DataError
from thoughtlens.evals.probing import attention, probes
from thoughtlens.evals.probing.attention import Attention, Bags
from thoughtlens.evals.probing.losses import LogLoss


def one_cell(n=240, n_cells=12, d=8, gap=4.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    parts = [rng.normal(size=(n, d)) for _ in range(n_cells)]
    parts[7] = parts[7] + gap * np.eye(3, d)[y]
    return parts, y, probes.make_folds(y, np.arange(n), n_splits=3, n_inner=2)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradient_equals_finite_differences(sparse):
    rng = np.random.default_rng(0)
    n, k = 7, 3
    groups = [rng.normal(size=(2 * n, 4)), rng.normal(size=(3 * n, 2))]
    model = Attention([sp.csr_array(g) for g in groups] if sparse else groups, n, rng.normal(size=5))
    kept = rng.random((n, 2)) < 0.8
    loss = LogLoss(rng.integers(0, k, n), kept, k)
    theta, both = rng.normal(size=(model.n_variables(k), 2)), np.arange(2)

    def value(t):
        return loss(model.forward(t, k, both)[0], both)[0]

    outputs, cache = model.forward(theta, k, both)
    gradient = model.backward(loss(outputs, both)[1], cache)
    for i in range(len(theta)):
        step = np.zeros_like(theta)
        step[i] = 1e-6
        slope = (value(theta + step) - value(theta - step)) / 2e-6
        np.testing.assert_allclose(gradient[i], slope, atol=1e-7)


@pytest.mark.parametrize("split", [(12,), (5, 7)])
def test_one_cell_is_found_by_attention_and_lost_by_the_mean(split):
    parts, y, folds = one_cell()
    edges = np.cumsum((0, *split))
    bags = Bags([parts[a:b] for a, b in pairwise(edges)])
    attended = attention.probe(bags, y, folds, n_classes=3)
    mean = probes.probe(np.mean(parts, axis=0), y, folds, n_classes=3)
    assert (attended.pred == y).mean() >= 0.95
    assert (mean.pred == y).mean() < 0.75


def test_a_number_in_one_cell():
    parts, _, _ = one_cell()
    y = parts[3][:, 2] * 3 + 10
    folds = probes.make_value_folds(y, np.arange(len(y)), n_splits=3, n_inner=2)
    found = attention.probe(Bags([parts]), y, folds, n_classes=None)
    assert 1 - ((found.pred - y) ** 2).mean() / y.var() > 0.95


def test_test_labels_change_no_choice():
    parts, y, folds = one_cell(n=90)
    held = folds.outer == 0
    poisoned = np.where(held, (y + 1) % 3, y)
    a, b = (attention.probe(Bags([parts]), own, folds, n_classes=3, only=[0]) for own in (y, poisoned))
    np.testing.assert_array_equal(a.proba[held], b.proba[held])


def test_cells_that_are_not_finite():
    parts, y, folds = one_cell(n=60, n_cells=8)
    parts[2][5, 1] = np.inf
    with pytest.raises(DataError, match="NaN or Inf"):
        attention.probe(Bags([parts]), y, folds, n_classes=3)
