from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from thoughtlens.acts.store.order import Permutation
from thoughtlens.core import ConfigError


def order(n: int, *key: int) -> np.ndarray:
    return Permutation(n, key)(np.arange(n))


@settings(deadline=None)
@given(st.integers(0, 5000), st.integers(0, 2**63), st.integers(0, 100))
def test_is_a_permutation(n, seed, epoch):
    assert np.array_equal(np.sort(order(n, seed, epoch)), np.arange(n))


@pytest.mark.parametrize("n", [2**16 - 1, 2**16, 2**16 + 1, 300 * 301, 1_000_003])
def test_is_a_permutation_of_many(n):
    assert np.array_equal(np.sort(order(n, 7)), np.arange(n))


def test_a_part_is_computed_without_the_rest():
    n = 3 * 10**15
    items = Permutation(n, (1,))(np.arange(n - 100_000, n))
    assert items.min() >= 0 and items.max() < n and len(np.unique(items)) == len(items)
    # uniform on [0, n): the mean of 100,000 has standard deviation n / sqrt(12 * 100,000)
    assert abs(items.mean() / n - 0.5) < 4 / np.sqrt(12 * len(items))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 999), max_size=20))
def test_each_position_alone_gives_the_same(positions):
    whole, some = order(1000, 3), np.array(positions, np.int64)
    assert np.array_equal(Permutation(1000, (3,))(some), whole[some])


def test_another_key_is_another_order():
    assert not np.array_equal(order(100, 0, 0), order(100, 0, 1))
    assert not np.array_equal(order(100, 0, 1), order(100, 1, 0))
    assert np.array_equal(order(100, 5, 2), order(100, 5, 2))


@pytest.mark.parametrize(("n", "keys"), [(2, 1000), (5, 1500), (16, 1500), (50, 1500)])
def test_every_item_is_equally_often_at_every_position(n, keys):
    counts = np.zeros((n, n))
    for seed in range(keys):
        counts[np.arange(n), order(n, seed)] += 1
    expected = keys / n
    statistic = ((counts - expected) ** 2 / expected).sum()
    # rows and columns have fixed sums: (n - 1)^2 degrees of freedom
    assert chi2.sf(statistic, (n - 1) ** 2) > 1e-4


def test_all_orders_of_three_are_equally_frequent():
    orders, counts = np.unique([order(3, seed) for seed in range(1800)], axis=0, return_counts=True)
    assert len(orders) == 6
    # 300 each expected, standard deviation sqrt(1800 * 1/6 * 5/6) = 15.8
    assert abs(counts - 300).max() < 4 * 15.8


def test_displacements_of_one_order_are_uniform():
    n = 200_000
    items = order(n, 11)
    shifts = np.histogram((items - np.arange(n)) % n, bins=100)[0]
    steps = np.histogram(np.diff(items) % n, bins=100)[0]
    for counts in (shifts, steps):
        expected = counts.sum() / 100
        assert chi2.sf(((counts - expected) ** 2 / expected).sum(), 99) > 1e-4


def test_neighbours_are_not_correlated():
    n = 100_000
    items = order(n, 2)
    limit = 4 / np.sqrt(n)
    assert abs(np.corrcoef(items, np.arange(n))[0, 1]) < limit
    for lag in (1, 2, 3, 317):  # 317 = the side of the Feistel network's square
        assert abs(np.corrcoef(items[lag:], items[:-lag])[0, 1]) < limit
    assert abs(np.corrcoef(items, order(n, 3))[0, 1]) < limit


def test_what_it_refuses():
    with pytest.raises(IndexError):
        Permutation(5, (0,))(np.array([5]))
    with pytest.raises(ConfigError, match="seed >= 0, got -1"):
        Permutation(5, (-1,))
    with pytest.raises(ConfigError, match="got -3"):
        Permutation(-3, (0,))
