"""Top examples, look-ups and windows against brute force and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from thoughtlens.explain import examples
from thoughtlens.explain.examples import (
    Fires,
    LatentStats,
    Lookup,
    TopExamples,
    spread,
    stretches,
    windows,
)


def random_fires(n_units: int, rows_per_unit: int, hooks: int, d: int, seed: int) -> Fires:
    """Few different values, so that ties are common."""
    rng = np.random.default_rng(seed)
    acts = rng.integers(0, 4, (n_units * rows_per_unit, hooks, d)) * (rng.random((1, hooks, d)) < 0.8)
    place, hook, latent = np.nonzero(acts)
    return Fires(place // rows_per_unit, place, hook, latent, acts[place, hook, latent].astype(np.float32))


def brute_force(fires: Fires, row: np.ndarray, d: int, k: int) -> dict[int, list[tuple[float, int, int]]]:
    best: dict[int, list[tuple[float, int, int]]] = {j: [] for j in range(d)}
    for j in range(d):
        own = [
            (-v, int(row[p]), int(h), int(u))
            for v, p, h, u, latent in zip(
                fires.value, fires.place, fires.hook, fires.unit, fires.latent, strict=True
            )
            if latent == j
        ]
        seen: set[int] = set()
        for v, r, h, u in sorted(own):
            if u not in seen:
                seen.add(u)
                best[j].append((-v, r, h))
        best[j] = best[j][:k]
    return best


@pytest.mark.parametrize("pending", [10, 1_000_000])
def test_top_examples_equal_brute_force(pending, monkeypatch):
    monkeypatch.setattr(examples, "PENDING", pending)  # a buffer size, so that merging happens often
    fires = random_fires(n_units=12, rows_per_unit=3, hooks=2, d=6, seed=0)
    row = np.random.default_rng(1).permutation(36)
    top = TopExamples(row, 6, 3)
    for low, high in ((0, 5), (5, 6), (6, 12)):
        own = (fires.unit >= low) & (fires.unit < high)
        values = (
            fires.unit[own] - low,
            fires.place[own],
            fires.hook[own],
            fires.latent[own],
            fires.value[own],
        )
        top.update(Fires(*values))
    found = top.compute()
    expected = brute_force(fires, row, 6, 3)
    for j in range(6):
        own = found.latent == j
        got = zip(
            found.value[own].tolist(), row[found.place[own]].tolist(), found.hook[own].tolist(), strict=True
        )
        assert list(got) == expected[j]
        assert found.rank[own].tolist() == list(range(len(expected[j])))


def test_top_examples_of_nothing():
    empty = np.zeros(0, np.int64)
    top = TopExamples(empty, 4, 2)
    top.update(Fires(empty, empty, empty, empty, empty.astype(np.float32)))
    assert len(top.compute().latent) == 0


def test_latent_stats_by_hand():
    stats = LatentStats(3)
    values = np.array([1.0, 3.0, 2.0], np.float32)
    fires = Fires(
        np.array([0, 0, 1]), np.array([0, 1, 2]), np.zeros(3, np.int64), np.array([0, 0, 2]), values
    )
    stats.update(fires, n_vectors=4, n_units=2, marks={"first": np.array([True, False, True])})
    assert stats.fires.tolist() == [2, 0, 1]
    assert stats.density.tolist() == [0.5, 0, 0.25]
    assert stats.mean_active.tolist() == [2, 0, 2]
    assert stats.max.tolist() == [3, 0, 2]
    assert stats.units.tolist() == [1, 0, 1]
    # latent 0 has 1 of its 1 + 3 on marked rows
    assert stats.marked_share("first").tolist() == [0.25, 0, 1]
    assert stats.marked_share("outlier").tolist() == [0, 0, 0]


def test_lookup_finds_what_fires_and_zero_elsewhere():
    asked = Lookup(np.array([4, 2, 4, 9]), np.zeros(4, np.int64), np.array([1, 1, 1, 0]), n_hooks=1, d_sae=3)
    assert asked.places.tolist() == [2, 4, 9]
    zeros = np.zeros(2, np.int64)
    asked.update(Fires(zeros, np.array([4, 2]), zeros, np.array([1, 2]), np.array([0.5, 7.0], np.float32)))
    assert asked.compute().tolist() == [0.5, 0, 0.5, 0]


def test_windows_stay_inside_their_stretch():
    # two documents of 3 and 4 rows, the second read in two windows of 2
    stretch = stretches(np.array([0, 0, 0, 1, 1, 1, 1]), np.array([1, 2, 4, 1, 2, 1, 2]))
    assert stretch.tolist() == [0, 0, 0, 1, 1, 2, 2]
    start, stop = windows(np.array([1, 3, 6]), stretch, before=2, after=1)
    assert start.tolist() == [0, 3, 5]
    assert stop.tolist() == [3, 5, 7]
    assert spread(start, stop).tolist() == [0, 1, 2, 3, 4, 5, 6]
