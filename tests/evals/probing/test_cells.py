"""Which cell is best: found where it is, and not where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import Ridge

from thoughtlens.evals.probing import probes
from thoughtlens.evals.probing.cells import PENALTY, compare_cells, ridge_outputs


def drawn(gap, n=150, n_cells=6, d=5, seed=0, everywhere=False):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    parts = [rng.normal(size=(n, d)) for _ in range(n_cells)]
    for i in range(n_cells) if everywhere else [2]:
        parts[i] = parts[i] + gap * np.eye(2, d)[y]
    return parts, y, np.arange(n), probes.make_folds(y, np.arange(n), n_splits=3, n_inner=2)


@pytest.mark.parametrize(("d", "sparse"), [(5, False), (5, True), (90, False), (90, True)])
def test_ridge_equals_scikit_learn(d, sparse):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, d))
    targets, fold = rng.normal(size=(60, 3)), np.arange(60) % 2
    found = ridge_outputs(sp.csr_array(X) if sparse else X, targets, fold)
    train, test = fold == 1, fold == 0
    Z = (X - X[train].mean(0)) / X[train].std(0)
    mean = targets[train].mean(0)
    model = Ridge(alpha=PENALTY * d, fit_intercept=False).fit(Z[train], targets[train] - mean)
    np.testing.assert_allclose(found[test], model.predict(Z[test]) + mean, atol=1e-8)


def test_the_cell_that_knows():
    parts, y, groups, folds = drawn(2.5)
    found = compare_cells(parts, y, groups, folds, n_classes=2, n_permutations=60, seed=0)
    assert found.score.argmax() == 2 and found.score[2] > 0.9
    assert found.p_any[2] == found.p_best[2] == pytest.approx(1 / 61)
    assert (np.delete(found.p_best, 2) > 0.05).all()
    assert found.null_max < 0.7


def test_no_cell_knows():
    parts, y, groups, folds = drawn(0.0)
    found = compare_cells(parts, y, groups, folds, n_classes=2, n_permutations=60, seed=0)
    assert found.p_any.min() > 0.05


def test_all_know_alike_so_none_is_best():
    parts, y, groups, folds = drawn(1.5, everywhere=True)
    found = compare_cells(parts, y, groups, folds, n_classes=2, n_permutations=60, seed=0)
    assert found.p_any.max() < 0.05 and found.p_best.min() > 0.05


def test_numbers():
    parts, _, groups, _ = drawn(0.0)
    y = 2 * parts[4][:, 1] - 3
    folds = probes.make_value_folds(y, groups, n_splits=3, n_inner=2)
    found = compare_cells(parts, y, groups, folds, n_classes=None, n_permutations=40, seed=1)
    assert found.score.argmax() == 4 and found.p_best[4] < 0.05
