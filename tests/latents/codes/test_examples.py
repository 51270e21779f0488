"""Top and decile examples, look-ups and windows against brute force and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.latents.codes.fired import fires_of
from thoughtlens.latents.codes.examples import (
    decile_examples,
    look_up,
    spread,
    top_examples,
    windows,
)
from thoughtlens.latents.codes.member import stretches
from thoughtlens.latents.codes.statistics import latent_stats

ROWS, HOOKS, D = 36, 2, 6


def ties() -> np.ndarray:
    """[rows, hooks, latents], twelve problems of three rows; few values, so that ties are common."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 4, (ROWS, HOOKS, D)) * (rng.random((1, HOOKS, D)) < 0.8)


def test_top_examples_equal_brute_force():
    acts = ties()
    row = (np.random.default_rng(1).permutation(12)[:, None] * 3 + np.arange(3)).reshape(-1)
    found = top_examples(fires_of(acts, [3] * 12), row, np.arange(12), 3)
    for j in range(D):
        ordered = sorted(
            (-acts[p, h, j], row[p], h, p // 3) for p, h in np.ndindex(ROWS, HOOKS) if acts[p, h, j]
        )
        best = {one[3]: one for one in reversed(ordered)}.values()  # the first one of each problem
        expected = [(-v, r, h) for v, r, h, _ in sorted(best)[:3]]
        own = found.latent == j
        place, hook = found.vector[own] // HOOKS, found.vector[own] % HOOKS
        assert list(zip(found.value[own], row[place], hook, strict=True)) == expected
        assert found.rank[own].tolist() == list(range(len(expected)))


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_copies_are_one_example(copies):
    rng = np.random.default_rng(copies)
    acts = np.repeat(rng.gamma(2.0, size=(40, 3, 1, 5)) * (rng.random((40, 3, 1, 5)) < 0.4), copies, axis=0)
    n = 40 * copies
    group = np.repeat(np.arange(40), copies)[order := rng.permutation(n)]
    fires = fires_of(acts[order].reshape(n * 3, 1, 5), [3] * n)
    top = top_examples(fires, np.arange(n * 3), group, 10)
    _, drawn = decile_examples(fires, group, 3, seed=0)
    for j in range(5):
        own = top.latent == j
        assert len(set(group[top.vector[own] // 3])) == own.sum() == 10
        best = np.sort(acts[::copies, ..., j].max((1, 2)))[::-1][:10]
        np.testing.assert_allclose(top.value[own], best, rtol=1e-6)
        for decile in range(1, 11):
            shown = group[drawn.vector[(drawn.latent == j) & (drawn.decile == decile)] // 3]
            assert 0 < len(shown) == len(set(shown))


def test_a_latent_of_both_signs_shows_its_strongest_negative_activations():
    # latent 0: 30 positive and 30 weaker negative, latent 1: negative but for two, latent 2: positive
    value = np.arange(1.0, 31.0)
    acts = np.zeros((60, 1, 3))
    acts[:30, 0, 0], acts[30:, 0, 0] = value, -value / 100
    acts[:, 0, 1] = np.r_[5.0, 6.0, -np.arange(1.0, 59.0)]
    acts[:30, 0, 2] = value
    fires = fires_of(acts, [1] * 60)
    found = top_examples(fires, np.arange(60), np.arange(60), 6)
    values = [found.value[found.latent == j].tolist() for j in range(3)]
    assert values[0] == pytest.approx([30, 29, 28, -0.3, -0.29, -0.28])
    assert values[1] == [-58, -57, -56, -55, 6, 5]
    assert values[2] == [30, 29, 28, 27, 26, 25]
    summed = latent_stats(fires, {"all": np.ones(60, bool), "half": np.arange(60) < 30})
    assert (summed.max.tolist(), summed.min.tolist()) == ([30, 6, 30], pytest.approx([-0.3, -58, 0]))
    np.testing.assert_allclose(summed.marked_share(0), 1.0)
    assert 0 < summed.marked_share(1)[1] < 1


def test_nothing_fires():
    fires = fires_of(np.zeros((4, 1, 3)), [4])
    assert len(top_examples(fires, np.arange(4), np.zeros(1, int), 2).latent) == 0
    edges, found = decile_examples(fires, np.zeros(1, int), 2, seed=0)
    assert len(found.latent) == 0 and not edges.any()


def test_deciles_are_true_quantiles():
    rng = np.random.default_rng(2)
    acts = np.where(rng.random((500, 1, 4)) < [1.0, 0.5, 0.01, 0.0], rng.gamma(2.0, size=(500, 1, 4)), 0)
    acts[[7, 70], 0, 3] = 5, 4
    fires = fires_of(acts, [1] * 500)
    edges, found = decile_examples(fires, np.arange(500), 3, seed=0)
    for j in range(4):
        own = acts[:, 0, j][acts[:, 0, j] > 0].astype(np.float32)
        np.testing.assert_allclose(edges[j], np.quantile(own, np.linspace(0, 1, 11)), rtol=1e-6)
        for decile in range(1, 11):
            here = (found.latent == j) & (found.decile == decile)
            # the fires at or above the lower edge and below the upper one, in exact arithmetic on ranks
            n, low, high = len(own), 10 * (decile - 1), 10 * decile
            above = [r for r in range(n) if low * (n - 1) <= 100 * r]
            ranks = [r for r in above if 100 * r < high * (n - 1) or high == 100]
            ranked, n = np.sort(own)[ranks], len(ranks)
            assert here.sum() == min(3, n)
            assert set(found.value[here]) <= set(ranked)
            assert found.rank[here].tolist() == list(range(here.sum()))
            assert (np.diff(found.value[here]) <= 0).all()
            assert len(set(found.vector[here])) == here.sum()
    np.testing.assert_array_equal(acts[found.vector, 0, found.latent].astype(np.float32), found.value)


def test_decile_samples_are_uniform():
    # 40 latents that fire alike on 100 rows: each decile has 10 fires, of which 3 are drawn
    acts = np.repeat(np.arange(1.0, 101.0)[:, None, None], 40, axis=2)
    drawn = np.zeros(100)
    for seed in range(20):
        _, found = decile_examples(fires_of(acts, [1] * 100), np.arange(100), 3, seed)
        drawn += np.bincount(found.vector, minlength=100)
    # 20 * 40 latents, each fire with probability 3/10: 240, standard deviation sqrt(800 * 0.21) = 13
    assert abs(drawn - 240).max() < 5 * 13
    assert abs(drawn.mean() - 240) < 1e-9


def test_look_up_finds_what_fires_and_zero_elsewhere():
    acts = ties()
    fires = fires_of(acts, [3] * 12)
    vector, latent = np.divmod(np.arange(ROWS * HOOKS * D), D)
    found = look_up(fires, latent, vector)
    np.testing.assert_array_equal(found, acts.reshape(-1, D)[vector, latent])


@pytest.mark.parametrize("n", [0, 1])
def test_no_look_ups(n):
    fires = fires_of(np.ones((2, 1, 1)), [2])
    assert look_up(fires, np.zeros(n, np.int64), np.zeros(n, np.int64)).tolist() == [1.0] * n


def test_windows_stay_inside_their_stretch():
    # two documents of 3 and 4 rows, the second read in two windows of 2
    stretch = stretches(np.array([0, 0, 0, 1, 1, 1, 1]), np.array([1, 2, 4, 1, 2, 1, 2]))
    assert stretch.tolist() == [0, 0, 0, 1, 1, 2, 2]
    start, stop = windows(np.array([1, 3, 6]), stretch, before=2, after=1)
    assert start.tolist() == [0, 3, 5]
    assert stop.tolist() == [3, 5, 7]
    assert spread(start, stop).tolist() == [0, 1, 2, 3, 4, 5, 6]
