"""Which latent speaks for which value, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from thoughtlens.evals.recovery.ceilings import Reader
from thoughtlens.evals.recovery.recover import Judge
from thoughtlens.evals.recovery.scores import Fired, choose, layered, score, splitting, where
from thoughtlens.evals.recovery.taught import thresholds, winners

# rows     value  latent 0  latent 1  latent 2
ROWS = [
    (0, 1, 0, 0),
    (0, 1, 0, 1),
    (0, 0, 1, 0),
    (0, 0, 1, 0),
    (1, 0, 0, 1),
    (1, 1, 0, 1),
]


def fired() -> Fired:
    table = np.array(ROWS, float)
    return Fired(sp.csr_array(table[:, 1:]), table[:, 0].astype(int))


def test_one_latent_and_two_by_hand():
    choice = choose(fired(), 2)
    # value 0 has 4 rows. latent 0 fires 3 times, 2 of them there: F1 = 2*2 / (3 + 4) = 0.571
    # latent 1 fires twice, both there: 2*2 / (2 + 4) = 0.667; both together fire 5 times, 4 there: 8 / 9
    assert choice.one[0] == 1 and choice.f1[0] == pytest.approx(4 / 6)
    assert sorted(choice.two[0]) == [0, 1] and choice.f1_of_two[0] == pytest.approx(8 / 9)
    # value 1 has 2 rows. latent 2 fires 3 times, 2 there: 4 / 5, and no second latent helps
    assert choice.one[1] == 2 and choice.two[1].tolist() == [2, 2]
    assert choice.f1_of_two[1] == choice.f1[1] == pytest.approx(4 / 5)


def test_the_choice_is_scored_on_other_rows():
    choice = choose(fired(), 2)
    acts = np.array([[0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]], float)
    other = Fired(sp.csr_array(acts), np.array([0, 0, 1, 1]))
    found = score(other, choice, np.arange(4), found_at=0.9, n_resamples=200, seed=0)
    # latent 1 on value 0: fires 3 times, 2 right of 2: precision 2/3, recall 1, F1 = 4 / 5
    assert (found.precision[0], found.recall[0], found.f1[0]) == pytest.approx((2 / 3, 1, 4 / 5))
    # latent 2 on value 1: fires twice, both right: F1 1; so one of two values is found
    assert found.f1[1] == 1 and found.found.estimate == 0.5
    assert found.best_f1.estimate == pytest.approx(0.9)
    assert found.found.low <= 0.5 <= found.found.high and found.found.n == 4


def test_copies_in_a_group_do_not_narrow_the_interval():
    choice, rng = choose(fired(), 2), np.random.default_rng(0)
    y = rng.integers(2, size=60)
    acts = np.eye(3)[np.where(rng.random(60) < 0.7, 2 - (y == 0), 0)]
    once = score(Fired(sp.csr_array(acts), y), choice, np.arange(60), found_at=0.5, n_resamples=500, seed=0)
    copies = Fired(sp.csr_array(np.repeat(acts, 4, 0)), np.repeat(y, 4))
    grouped = score(copies, choice, np.repeat(np.arange(60), 4), found_at=0.5, n_resamples=500, seed=0)
    assert (grouped.best_f1.low, grouped.best_f1.high) == pytest.approx((once.best_f1.low, once.best_f1.high))


def test_splitting_and_sharing():
    into, sharing = splitting(fired(), choose(fired(), 2))
    # value 0 is told by latents 0 (2 of 3 firings) and 1; value 1 by latent 2 only
    assert into.tolist() == [2, 1]
    # latent 1 fires on value 0 only; latent 2 also on value 0, a third of the time
    assert sharing.tolist() == [1, 2]


def test_a_place_that_is_read_but_not_organised_by_the_value():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=800)
    x = np.c_[y + 0.01 * rng.normal(size=800), 50 * rng.normal(size=(800, 3))]
    held_out = Reader(x[:400]).ceiling(y[:400], x[400:], y[400:])
    assert held_out.right.mean() > 0.97 and abs(held_out.variance_share) < 0.02
    alone = Reader(x[:400, :1]).ceiling(y[:400], x[400:, :1], y[400:])
    assert alone.variance_share > 0.99


def test_the_probe_is_a_ridge_classifier():
    rng = np.random.default_rng(0)
    for n_values in (2, 7):
        y = rng.integers(n_values, size=900)
        x = rng.normal(size=(900, 12)) * np.arange(1, 13) + rng.normal(size=(n_values, 12))[y]
        scaler = StandardScaler().fit(x[:600])
        peer = RidgeClassifier(1.0).fit(scaler.transform(x[:600]), y[:600])
        found = Reader(x[:600]).ceiling(y[:600], x[600:], y[600:])
        assert (found.right == (peer.predict(scaler.transform(x[600:])) == y[600:])).all()


def test_pairs_are_the_best_of_all_pairs():
    rng = np.random.default_rng(1)
    y = rng.integers(-1, 3, size=200)
    fires = rng.random((200, 10)) < np.where(y[:, None] == np.arange(10) % 3, 0.5, 0.1)
    choice = choose(Fired(sp.csr_array(fires.astype(float)), y), 3)
    for v in range(3):
        f1 = {
            (i, j): 2
            * ((fires[:, i] | fires[:, j]) & (y == v)).sum()
            / ((fires[:, i] | fires[:, j]).sum() + (y == v).sum())
            for i in range(10)
            for j in range(i, 10)
        }
        assert choice.f1_of_two[v] == pytest.approx(max(f1.values()))
        assert choice.f1[v] == pytest.approx(max(f1[i, i] for i in range(10)))
        assert f1[tuple(sorted(choice.two[v]))] == pytest.approx(choice.f1_of_two[v])


def test_two_are_taken_where_they_were_better_on_validation_problems_alone():
    choice = choose(fired(), 2)
    acts = np.array([[0, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]], float)
    found = score(
        Fired(sp.csr_array(acts), np.array([0, 0, 1, 1])),
        choice, np.arange(4), found_at=0.9, n_resamples=200, seed=0,
    )  # fmt: skip
    # value 0 was told best by latents 0 and 1 together, which fire on a row of value 1 here: 2*2 / (3 + 2)
    assert found.f1[0] == 1 and found.f1_of_two[0] == pytest.approx(0.8)
    assert (found.found.estimate, found.found_by_two.estimate) == (1, 0.5)


def test_two_dictionaries_are_compared_on_the_same_problems():
    rng = np.random.default_rng(0)
    y = np.resize([0, 1], 400)
    sure, vague = (np.eye(2)[np.where(rng.random(400) < p, y, 1 - y)] for p in (1.0, 0.7))
    judge = Judge(0.9, 300)
    halves = [
        [Fired(sp.csr_array(f[at]), y[at]) for at in (slice(200), slice(200, 400))] for f in (sure, vague)
    ]
    a, b = (judge.told(seen, test, np.arange(200), 2) for seen, test in halves)
    ahead, behind, same = judge.difference(a, b), judge.difference(b, a), judge.difference(a, a)
    assert (ahead.estimate, ahead.low) == (1, 1) and behind.estimate == -1
    assert same.estimate == same.low == same.high == 0


def test_a_kind_is_absorbed_where_only_the_latent_of_the_value_fires():
    # rows      value  latents of the values 0, 1, 2  latent of kind 0
    rows = np.array([(0, 1, 0, 0, 0), (0, 1, 0, 0, 1), (1, 0, 1, 0, 1), (2, 0, 0, 1, 0), (0, 0, 0, 0, 1)])
    own = Fired(sp.csr_array(rows[:, 1:].astype(float)), rows[:, 0])
    found = layered(own, choose(own, 3), np.array([0, 0, 1]), np.array([3, 2]))
    # row 0 is absorbed; rows 1 and 2 are composed; row 3's kind has the value's own latent; row 4 has none
    assert found.tolist() == [[1, 0], [0, 1], [0, 1], [0, 1], [0, 0]]


def test_the_threshold_has_the_best_f1():
    says = np.array([[3.0, -1], [2, 0], [1, 5], [0, 1]])
    # value 0 holds rows 0 and 2: from 1 on, two of three are right, 2*2 / (3 + 2) = .8; from 3 on 2 / 3
    assert thresholds(says, np.array([0, 1, 0, 1])).tolist() == [1, 0]
    assert winners(says).tolist() == [[3, -np.inf], [2, -np.inf], [-np.inf, 5], [-np.inf, 1]]


def test_firings_are_kept_where_they_are_also_in_rows_without_any():
    fires = np.array([[False, True, True], [False, False, False], [True, False, False]])
    found = where(fires)
    assert (found.todense() == fires).all()
    assert found.dtype == np.float32
    assert found.nnz == 3
