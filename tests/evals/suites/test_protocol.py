"""sae-probes' protocol: by hand, and against numbers that the package gave (tests/peers runs it itself)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.evals.suites.planted import planted_rows
from thoughtlens.core import DataError
from thoughtlens.evals.suites import protocol
from thoughtlens.numerics.stats.auc import auc_interval, weighted_auc


def labels(n):
    return (np.arange(n) * 7 % 10 < 5).astype(int)


def test_split_takes_all_rows_but_one_and_halves_them():
    y = labels(400)
    taken = protocol.split(y, seed=42)
    assert len(taken.train) == 400 - 100 and len(taken.test) == 99
    assert len(np.unique(np.concatenate([taken.train, taken.test]))) == 399
    assert y[taken.train].sum() == 150
    assert y[taken.test].sum() == 50  # of an odd number the larger half is of class 1
    assert len(protocol.split(labels(3000), seed=42).train) == 1024
    assert (protocol.split(y, seed=42).train == taken.train).all()
    assert (protocol.split(y, seed=43).train != taken.train).any()


def test_split_is_that_of_the_package():
    small, large = protocol.split(labels(220), 42), protocol.split(labels(400), 42)
    # sae-probes 0.4.2, get_train_test_indices(y, n - 100, 99, 0.5, 42)
    assert small.train[:5].tolist() == [123, 132, 186, 209, 9]
    assert small.test[:5].tolist() == [2, 175, 59, 5, 150]
    assert large.train[:5].tolist() == [357, 17, 18, 305, 86]
    assert large.test[:5].tolist() == [260, 365, 105, 376, 317]


def test_rows_beyond_five_thousand_do_not_count():
    y = labels(6000)
    taken = protocol.split(y, 0)
    assert max(taken.train.max(), taken.test.max()) < 5000
    assert len(taken.test) == 5000 - 1024 - 1


def test_sets_that_the_split_cannot_take():
    with pytest.raises(DataError, match="at least 200 rows, got 150"):
        protocol.split(labels(150), 0)
    with pytest.raises(DataError, match=r"rows of class 1, got 20 of 400"):
        protocol.split((np.arange(400) < 20).astype(int), 0)


def test_ranking_by_hand():
    # in units of the mean where it fires (3, 3, 1): class 1 (2/3 + 4/3) / 2 = 1, 0.5, 1; class 0: 0, 0, 1
    acts = torch.tensor([[2.0, 0, 1], [0, 0, 1], [4, 3, 1], [0, 0, 1]])
    assert protocol.ranking(acts, np.array([1, 0, 1, 0])).tolist() == [0, 1, 2]
    # a latent that never fires is last, not NaN
    assert protocol.ranking(acts * torch.tensor([0.0, 1, 1]), np.array([1, 0, 1, 0]))[0] == 1


RECORDED = [
    # sae-probes 0.4.2, find_best_reg on the split above with seed 42: AUC, accuracy, F1, validation AUC, C
    (220, "l1", 0.8183673469, 0.7171717172, 0.7169984155, 0.8216666667, 0.2782559402),
    (220, "l2", 0.7363265306, 0.6969696970, 0.6969696970, 0.7416666667, 3.5938136638),
    (400, "l1", 0.7824489796, 0.6565656566, 0.6533857089, 0.8170594837, 0.2782559402),
    (400, "l2", 0.6775510204, 0.6363636364, 0.6329966330, 0.8024691358, 3.5938136638),
]


@pytest.mark.parametrize(("n", "penalty", "auc", "accuracy", "f1", "val_auc", "c"), RECORDED)
def test_fits_are_those_of_the_package(n, penalty, auc, accuracy, f1, val_auc, c):
    y = labels(n)
    x, taken = planted_rows(y, seed=3, strength=0.6).numpy(), protocol.split(y, 42)
    found = protocol.fit(
        x[taken.train], y[taken.train], x[taken.test], y[taken.test], penalty=penalty, seed=42
    )
    expected = {"auc": auc, "accuracy": accuracy, "f1": f1, "val_auc": val_auc, "c": c}
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, abs=0.012)
    assert roc_auc_score(y[taken.test], found.p) == pytest.approx(found.auc)


def test_auc_by_hand():
    y, p = np.array([0, 1, 1, 0]), np.array([0.1, 0.4, 0.4, 0.4])
    auc = weighted_auc(y, p)
    # both of class 1 beat the first row and tie with the last: (1 + 1 + 0.5 + 0.5) / 4
    assert auc(np.ones(4)) == pytest.approx(0.75)
    assert auc(np.array([3.0, 2, 0, 1])) == pytest.approx((3 + 0.5) / 4)
    assert np.isnan(auc(np.array([1.0, 0, 0, 1])))


def test_auc_of_weighted_rows_equals_scikit_learn():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 200), rng.integers(0, 9, 200) / 9
    weight = rng.poisson(1, 200).astype(float)
    drawn = weight > 0
    expected = roc_auc_score(y[drawn], p[drawn], sample_weight=weight[drawn])
    assert weighted_auc(y, p)(weight) == pytest.approx(expected)


def test_interval_of_a_difference():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 300)
    good, same = y + rng.normal(0, 0.5, 300), rng.normal(0, 1, 300)
    found = auc_interval(y, [good, same], np.arange(300), n_resamples=200, seed=0)
    assert found.estimate == pytest.approx(roc_auc_score(y, good) - roc_auc_score(y, same))
    assert 0 < found.low < found.estimate < found.high
    none = auc_interval(y, [good, good], np.arange(300), n_resamples=200, seed=0)
    assert (none.low, none.estimate, none.high) == (0, 0, 0)
