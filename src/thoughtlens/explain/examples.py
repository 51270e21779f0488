"""Per-latent statistics, strongest examples, and what a latent does around them.

All are fed with the fires of whole problems (or documents), so that "one example a problem" and "in
how many problems" are exact without remembering problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from thoughtlens.explain.association import rank_within

PENDING = 1_000_000
"""Candidates for top examples that wait before they are merged."""


@dataclass(frozen=True, eq=False)
class Fires:
    """Where latents fire in a chunk of whole problems, one entry per (vector, latent).

    `unit` counts the chunk's problems from 0, `place` is the position of the row in the stage's
    order of rows, `hook` the index of the hook among the member's.
    """

    unit: Int[np.ndarray, " n"]
    place: Int[np.ndarray, " n"]
    hook: Int[np.ndarray, " n"]
    latent: Int[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]


class LatentStats:
    """Count, mean and maximum of each latent, and how much of its activation is on marked rows."""

    def __init__(self, d_sae: int) -> None:
        self.d_sae, self.n_vectors, self.n_units = d_sae, 0, 0
        self.fires, self.units = np.zeros(d_sae, np.int64), np.zeros(d_sae, np.int64)
        self.total, self.max = np.zeros(d_sae), np.zeros(d_sae)
        self.marked: dict[str, np.ndarray] = {}

    def update(
        self, fires: Fires, n_vectors: int, n_units: int, marks: Mapping[str, Bool[np.ndarray, " n"]]
    ) -> None:
        """Add a chunk; each of `marks` says which of the fires are on rows of some kind."""
        self.n_vectors += n_vectors
        self.n_units += n_units
        self.fires += np.bincount(fires.latent, minlength=self.d_sae)
        self.total += np.bincount(fires.latent, fires.value, minlength=self.d_sae)
        np.maximum.at(self.max, fires.latent, fires.value)
        pairs = np.unique(fires.unit.astype(np.int64) * self.d_sae + fires.latent)
        self.units += np.bincount(pairs % self.d_sae, minlength=self.d_sae)
        for name, mark in marks.items():
            total = np.bincount(fires.latent[mark], fires.value[mark], minlength=self.d_sae)
            self.marked[name] = self.marked.get(name, 0.0) + total

    def marked_share(self, name: str) -> Float[np.ndarray, " d_sae"]:
        """Share of each latent's summed activation that is on rows of this kind; 0 for a dead latent."""
        total = np.where(self.total > 0, self.total, 1.0)
        return self.marked.get(name, np.zeros(self.d_sae)) / total

    @property
    def density(self) -> Float[np.ndarray, " d_sae"]:
        """Share of vectors on which each latent fires."""
        return self.fires / max(self.n_vectors, 1)

    @property
    def mean_active(self) -> Float[np.ndarray, " d_sae"]:
        """Mean activation where it fires; 0 for a latent that never does."""
        return self.total / np.maximum(self.fires, 1)


@dataclass(frozen=True, eq=False)
class Examples:
    """Strongest vectors, by latent and rank; `place` and `hook` as in `Fires`."""

    latent: Int[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]
    place: Int[np.ndarray, " n"]
    hook: Int[np.ndarray, " n"]


class TopExamples:
    """The k strongest vectors of each latent, at most one a problem.

    Ties go to the lowest row, then to the first hook. Holds `k * d_sae` entries and at most
    `PENDING` candidates.

    Args:
        row: Row number of each place, by which ties are broken.
        d_sae: Number of latents.
        k: Examples to keep for each.
    """

    def __init__(self, row: Int[np.ndarray, " rows"], d_sae: int, k: int) -> None:
        self.row, self.k = row, k
        self.floor = np.zeros(d_sae)
        self.kept: list[tuple[np.ndarray, ...]] = []
        self.pending = 0

    def update(self, fires: Fires) -> None:
        """Add a chunk of whole problems."""
        good = fires.value >= self.floor[fires.latent]
        unit, place, hook = fires.unit[good], fires.place[good], fires.hook[good]
        latent, value = fires.latent[good], fires.value[good]
        order = np.lexsort((hook, self.row[place], -value, latent, unit))
        same = (np.diff(unit[order]) == 0) & (np.diff(latent[order]) == 0)
        one = order[np.r_[True, ~same]] if len(order) else order
        self.kept.append((latent[one], value[one], place[one], hook[one]))
        self.pending += len(one)
        if self.pending > max(PENDING, self.k * len(self.floor)):
            self._merge()

    def compute(self) -> Examples:
        """All that was kept, sorted by latent and rank."""
        latent, value, place, hook = self._merge()
        return Examples(latent, rank_within(latent), value, place, hook)

    def _merge(self) -> tuple[np.ndarray, ...]:
        empty = (np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))
        latent, value, place, hook = (np.concatenate(c) for c in zip(empty, *self.kept, strict=True))
        order = np.lexsort((hook, self.row[place], -value, latent))
        rank = rank_within(latent[order])
        keep = order[rank < self.k]
        full = order[rank == self.k - 1]
        self.floor[latent[full]] = value[full]
        merged = latent[keep], value[keep], place[keep], hook[keep]
        self.kept, self.pending = [merged], 0
        return merged


class Lookup:
    """The activation of chosen latents on chosen places; 0 where they do not fire.

    Args:
        place: Places asked for, with repeats.
        hook: The hook of each.
        latent: The latent of each.
        n_hooks: Number of hooks.
        d_sae: Number of latents.
    """

    def __init__(
        self,
        place: Int[np.ndarray, " n"],
        hook: Int[np.ndarray, " n"],
        latent: Int[np.ndarray, " n"],
        n_hooks: int,
        d_sae: int,
    ) -> None:
        self.n_hooks, self.d_sae = n_hooks, d_sae
        self.keys, self.at = np.unique(self._key(place, hook, latent), return_inverse=True)
        self.values = np.zeros(len(self.keys), np.float32)
        self.places = np.unique(place)

    def update(self, fires: Fires) -> None:
        """Add a chunk, in any order and with any overlap."""
        if not len(self.keys):
            return
        key = self._key(fires.place, fires.hook, fires.latent)
        at = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        hit = self.keys[at] == key
        self.values[at[hit]] = fires.value[hit]

    def compute(self) -> Float[np.ndarray, " n"]:
        """One activation for each entry asked for, in its order."""
        return self.values[self.at]

    def _key(self, place: np.ndarray, hook: np.ndarray, latent: np.ndarray) -> np.ndarray:
        return (place.astype(np.int64) * self.n_hooks + hook) * self.d_sae + latent


def windows(
    place: Int[np.ndarray, " n"],
    stretch: Int[np.ndarray, " rows"],
    *,
    before: int,
    after: int,
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Half-open ranges of places around each given one, within its stretch of text.

    Args:
        place: Centres.
        stretch: Number of the stretch (a piece of one document that the model saw at once) of every
            place; stretches are contiguous and ascending.
        before: Places wanted before the centre.
        after: Places wanted after it.
    """
    own = stretch[place]
    first = np.searchsorted(stretch, own, side="left")
    last = np.searchsorted(stretch, own, side="right")
    return np.maximum(place - before, first), np.minimum(place + after + 1, last)


def spread(start: Int[np.ndarray, " n"], stop: Int[np.ndarray, " n"]) -> Int[np.ndarray, " total"]:
    """All members of the ranges, one after the other: `[2, 7], [4, 8] -> [2, 3, 7]`."""
    lengths = stop - start
    offset = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.arange(lengths.sum()) - offset + np.repeat(start, lengths)


def stretches(
    problem: Shaped[np.ndarray, " rows"], position: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """Number of the stretch of each row: a new one begins with a problem, or where positions go back."""
    if not len(problem):
        return np.zeros(0, np.int64)
    new = (problem[1:] != problem[:-1]) | (position[1:] <= position[:-1])
    return np.r_[0, np.cumsum(new)]
