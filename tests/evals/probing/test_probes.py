"""The probe protocol: the learner is what it says, folds never leak, choices never see the test fold."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from thoughtlens.core import DataError
from thoughtlens.evals.probing import probes
from thoughtlens.evals.probing.cells import ridge_outputs
from thoughtlens.evals.probing.features import association


def blobs(
    n: int, d: int, n_classes: int = 3, gap: float = 0.6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    return rng.normal(size=(n, d)) + gap * rng.normal(size=(n_classes, d))[y], y


def test_probe_equals_scikit_learn_on_the_same_fold():
    X, y = blobs(150, 12)
    folds = probes.make_folds(y, np.arange(150), n_splits=3)
    found = probes.probe(X, y, folds, n_classes=3, grid=[0.1], max_iter=500)
    train, test = folds.outer != 0, folds.outer == 0
    Z = (X - X[train].mean(0)) / X[train].std(0)
    model = LogisticRegression(C=0.1, max_iter=1000, tol=1e-7).fit(Z[train], y[train])
    np.testing.assert_allclose(found.proba[test], model.predict_proba(Z[test]), atol=5e-3)
    assert found.n_unconverged == 0 and found.n_features == 12


@pytest.mark.parametrize("sparse", [False, True])
def test_more_features_than_units_changes_nothing_but_the_basis(sparse):
    X, y = blobs(60, 90, gap=0.4)
    if sparse:
        X = sp.csr_array(np.where(np.abs(X) > 1, X, 0.0))
    folds = probes.make_folds(y, np.arange(60), n_splits=3, n_inner=2)
    wide = probes.probe(X, y, folds, n_classes=3, grid=[0.01, 0.1], max_iter=2000)
    # three copies of every unit are 120 training units for 90 features, where nothing is reduced
    triple = sp.vstack([X] * 3, format="csr") if sparse else np.concatenate([X] * 3)
    tall = probes.Folds(np.tile(folds.outer, 3), np.tile(folds.inner, 3))
    # the loss is a mean and the penalty |W|^2 / 2Cn: three copies with C / 3 are the same problem
    narrow = probes.probe(triple, np.tile(y, 3), tall, n_classes=3, grid=[0.01 / 3, 0.1 / 3], max_iter=2000)
    np.testing.assert_allclose(wide.proba, narrow.proba[:60], atol=5e-3)


@pytest.mark.parametrize(("offset", "n_columns"), [(0.0, 11), (1e6, 11), (0.0, 150), (1e4, 150)])
def test_columns_around_a_large_value_that_are_there_twice_are_probed_as_dense_ones(offset, n_columns):
    rng = np.random.default_rng(3)
    own = rng.normal(size=(120, n_columns))
    y = (own[:, :3].sum(1) + 0.3 * rng.normal(size=120) > 0).astype(int)
    X = np.concatenate([own, own], 1) + offset
    folds = probes.make_folds(y, np.arange(120), n_splits=3, n_inner=2)
    dense = probes.probe(X, y, folds, n_classes=2, grid=[0.01, 0.1])
    sparse = probes.probe(sp.csr_array(X), y, folds, n_classes=2, grid=[0.01, 0.1])
    np.testing.assert_allclose(dense.proba, sparse.proba, atol=1e-2)
    assert len(set(sparse.pred)) == 2
    kept, targets = np.arange(120) < 100, np.eye(2)[y]
    told = [association(m, targets, kept, classes=True) for m in (own, X, sp.csr_array(X))]
    np.testing.assert_allclose(np.concatenate([told[0]] * 2), told[1], atol=1e-4)
    np.testing.assert_allclose(told[1], told[2], atol=1e-4)
    outputs = [ridge_outputs(m, targets, folds.outer) for m in (X - offset, X, sp.csr_array(X))]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-3)
    np.testing.assert_allclose(outputs[0], outputs[2], atol=1e-3)


def test_sparse_and_dense_give_the_same_probe():
    X, y = blobs(120, 10)
    X = np.where(np.abs(X) > 1.2, X, 0.0)
    folds = probes.make_folds(y, np.arange(120), n_splits=3)
    dense = probes.probe(X, y, folds, n_classes=3)
    sparse = probes.probe(sp.csr_array(X), y, folds, n_classes=3)
    np.testing.assert_allclose(dense.proba, sparse.proba, atol=5e-3)


def test_units_of_features_do_not_matter():
    X, y = blobs(120, 8)
    folds = probes.make_folds(y, np.arange(120), n_splits=3)
    scaled = X * np.array([1e-3, 1e3] * 4) + 50
    one, other = (probes.probe(x, y, folds, n_classes=3) for x in (X, scaled))
    np.testing.assert_allclose(one.proba, other.proba, atol=1e-4)


def test_groups_stay_whole_and_labels_stay_balanced():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    y = np.repeat(rng.permutation(np.arange(40) % 2), 3)
    folds = probes.make_folds(y, groups, n_splits=4, n_inner=3)
    for group in range(40):
        own = groups == group
        assert len(set(folds.outer[own])) == 1
        for fold in range(4):
            assert len(set(folds.inner[fold, own])) == 1
    for fold in range(4):
        assert (folds.inner[fold] == -1).sum() == (folds.outer == fold).sum()
        assert 0.3 < y[folds.outer == fold].mean() < 0.7


def test_grouped_folds_do_not_reward_memory():
    # 60 problems x 10 near copies with random labels: knowing the problem says everything, and nothing
    # else says anything
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), 10)
    y = np.repeat(rng.permutation(np.arange(60) % 3), 10)
    X = np.repeat(rng.normal(size=(60, 40)), 10, axis=0) + 0.05 * rng.normal(size=(600, 40))
    grouped = probes.make_folds(y, groups, n_splits=5, n_inner=2)
    torn = probes.make_folds(y, np.arange(600), n_splits=5, n_inner=2)
    honest = probes.probe(X, y, grouped, n_classes=3, grid=[0.1, 10.0])
    leaky = probes.probe(X, y, torn, n_classes=3, grid=[0.1, 10.0])
    assert (leaky.pred == y).mean() > 0.85
    assert abs((honest.pred == y).mean() - 1 / 3) < 0.15


def test_test_labels_change_no_choice():
    X, y = blobs(90, 6, gap=0.4)
    folds = probes.make_folds(y, np.arange(90), n_splits=3)
    before = probes.probe(X, y, folds, n_classes=3)
    poisoned = y.copy()
    held = folds.outer == 0
    poisoned[held] = (y[held] + 1) % 3
    after = probes.probe(X, poisoned, folds, n_classes=3)
    assert before.c[0] == after.c[0] and before.inner_loss[0] == after.inner_loss[0]
    np.testing.assert_array_equal(before.proba[held], after.proba[held])


def test_select_takes_the_least_inner_loss_in_every_fold():
    X, y = blobs(120, 5, gap=1.5)
    folds = probes.make_folds(y, np.arange(120), n_splits=3)
    good = probes.probe(X, y, folds, n_classes=3)
    noise = probes.probe(np.random.default_rng(9).normal(size=X.shape), y, folds, n_classes=3)
    chosen, which = probes.select([noise, good], folds)
    assert which == [1, 1, 1]
    np.testing.assert_array_equal(chosen.pred, good.pred)


def test_majority_by_hand():
    y = np.array([0, 0, 0, 1, 1, 0, 0, 1, 0])
    folds = probes.make_folds(y, np.arange(9), n_splits=3, n_inner=2)
    found = probes.constant(y, folds, n_classes=2)
    assert (found.pred == 0).all()
    np.testing.assert_allclose(found.proba, np.tile([2 / 3, 1 / 3], (9, 1)))
    assert found.inner_loss == pytest.approx(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)))


def test_features_that_never_vary_give_class_frequencies():
    y = np.tile([0, 1, 1], 20)
    folds = probes.make_folds(y, np.arange(60), n_splits=2, n_inner=2)
    found = probes.probe(np.full((60, 3), 7.0), y, folds, n_classes=2)
    np.testing.assert_allclose(found.proba, np.tile([1 / 3, 2 / 3], (60, 1)), atol=1e-3)


def test_permuted_labels_keep_groups_and_class_counts():
    groups = np.repeat(np.arange(30), 2)
    y = np.repeat(np.arange(30) % 3, 2)
    folds = probes.make_folds(y, groups, n_splits=3, n_inner=2)
    shuffled = probes.permute_labels(y, groups, folds, seed=0)
    assert (shuffled[::2] == shuffled[1::2]).all() and (shuffled != y).any()
    for fold in range(3):
        own = folds.outer == fold
        assert np.bincount(shuffled[own]).tolist() == np.bincount(y[own]).tolist()


def test_permuted_labels_score_at_chance():
    X, y = blobs(300, 20, gap=1.0)
    folds = probes.make_folds(y, np.arange(300), n_splits=5)
    shuffled = probes.permute_labels(y, np.arange(300), folds, seed=3)
    accuracy = (probes.probe(X, shuffled, folds, n_classes=3).pred == shuffled).mean()
    assert abs(accuracy - 1 / 3) < 0.09


@pytest.mark.parametrize(
    ("y", "groups", "message"),
    [
        (np.zeros(20, int), np.arange(20), "at least two classes, got only 'a' in all 20"),
        (np.arange(12) % 2, np.arange(12) // 4, "at least 5 groups for 5 folds, got 3"),
        (np.array([0] * 18 + [1] * 2), np.arange(20), "class 'b' is in 2"),
    ],
)
def test_labels_that_cannot_be_scored(y, groups, message):
    with pytest.raises(DataError, match=message):
        probes.make_folds(y, groups, n_splits=5, classes=["a", "b"])


def test_repeated_ids_need_groups():
    with pytest.raises(DataError, match="'p1' 3 times among 5 units and no groups"):
        probes.require_groups(["p0", "p1", "p1", "p2", "p1"], None)
    with pytest.raises(DataError, match="'p1' in several"):
        probes.require_groups(["p1", "p1"], ["a", "b"])
    assert probes.require_groups(["p1", "p1", "p2"], ["g", "g", "g"]).tolist() == [0, 0, 0]


def test_features_that_are_not_finite():
    X, y = blobs(30, 2)
    folds = probes.make_folds(y, np.arange(30), n_splits=2, n_inner=2)
    X[3, 1] = np.nan
    with pytest.raises(DataError, match="NaN or Inf"):
        probes.probe(X, y, folds, n_classes=3)
    with pytest.raises(DataError, match="one row of X for each of 30"):
        probes.probe(X[:9], y, folds, n_classes=3)


def test_digest_names_the_folds():
    y = np.arange(40) % 2
    one, same, other = (probes.make_folds(y, np.arange(40), seed=s).digest for s in (0, 0, 1))
    assert one == same != other
