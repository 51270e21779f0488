"""What chance does: permutations, and what p and false-discovery rate follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from thoughtlens.latents.codes import null_loops


@dataclass(frozen=True, kw_only=True)
class Chance:
    """How chance is drawn, and the support below which nothing is tested."""

    n_permutations: int = 200
    seed: int = 0
    min_units: int = 10
    """Groups of problems in which a latent must fire."""
    group: Int[np.ndarray, " units"] | None = None
    """Of each problem; those of one group are not independent. None: each problem has its own."""

    @property
    def rng(self) -> np.random.Generator:
        """A new generator, the same every time."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True, eq=False)
class Null:
    """What permutations gave: the largest |z| of each, and how many |z| fell into each bin over all."""

    largest: Float[np.ndarray, " permutations"]
    counts: Int[np.ndarray, " bins"]

    def p_max(self, z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Westfall & Young 1993, single-step maxT: family-wise over all tested pairs of the factor."""
        at_least = len(self.largest) - np.searchsorted(np.sort(self.largest), np.abs(z) * (1 - 1e-6))
        return (1 + at_least) / (1 + len(self.largest))

    def q_values(
        self, z: Float[np.ndarray, " n"], observed: Int[np.ndarray, " bins"] | None = None
    ) -> Float[np.ndarray, " n"]:
        """Plug-in false-discovery rates (Tusher et al. 2001; Storey & Tibshirani 2003, with pi_0 = 1).

        Holds where pairs differ in what chance gives them (few problems, rare words), unlike a normal
        p-value.

        Args:
            z: Of the entries listed.
            observed: Binned |z| of all tested pairs, where more were tested than are listed.
        """
        own = binned(z)
        if observed is None:
            observed = np.bincount(own, minlength=len(self.counts))
        null = (1 + _at_least(self.counts)) / len(self.largest)
        rate = np.where(observed > 0, null / np.maximum(_at_least(observed), 1), np.inf)
        return np.minimum(np.minimum.accumulate(rate), 1.0)[own]


def groups(chance: Chance, n_units: int) -> Int[np.ndarray, " units"]:
    """The group of each problem, counted from 0 in the order of their first problems."""
    if chance.group is None:
        return np.arange(n_units)
    _, first, number = np.unique(chance.group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first, kind="stable"), kind="stable")[number]


def shifts(size: Int[np.ndarray, " units"], chance: Chance) -> Int[np.ndarray, "units permutations"]:
    """Random shifts of every problem, from 0 to its size - 1; those of a group by the same share of it."""
    group = groups(chance, len(size))
    drawn = chance.rng.random((int(group.max(initial=-1)) + 1, chance.n_permutations), np.float32)[group]
    drawn *= size[:, None].astype(np.float32)
    found = drawn.astype(np.int32)
    return np.minimum(found, size[:, None].astype(np.int32) - 1, out=found)


def donors(known: Int[np.ndarray, " known"], chance: Chance) -> Int[np.ndarray, "known permutations"]:
    """For each permutation, the problem whose label each of the `known` ones is given.

    Groups change places: one is given the labels of another in their order, from the start again where it
    has more problems. Copies so keep one label, and a label that varies inside groups goes on doing so.
    All latents and labels of the same problems share them.
    """
    known = known.astype(np.int64)
    group = known if chance.group is None else groups(chance, len(chance.group))[known].astype(np.int64)
    return _donors(known.tobytes(), group.tobytes(), chance.n_permutations, chance.seed)


@lru_cache(maxsize=3)
def _donors(
    known: bytes, group: bytes, n_permutations: int, seed: int
) -> Int[np.ndarray, "known permutations"]:
    lines = np.frombuffer(known, np.int64)
    own = np.unique(np.frombuffer(group, np.int64), return_inverse=True)[1]
    order = np.argsort(own, kind="stable")
    size = np.bincount(own)
    start = np.cumsum(size) - size
    place = np.empty_like(own)
    place[order] = np.arange(len(own)) - start[own[order]]
    rng = np.random.default_rng(seed)
    found = np.empty((n_permutations, len(lines)), np.int32)
    for row in found:
        taken = rng.permutation(len(size))[own]
        row[:] = lines[order[start[taken] + place % size[taken]]]
    return np.ascontiguousarray(found.T)


def design_effect(
    values: sp.csr_array, known: Int[np.ndarray, " known"], chance: Chance
) -> Float[np.ndarray, " d_sae"]:
    """How many times the variance of each column's mean is what it would be if problems were independent.

    Sum over groups of (sum of deviations)^2, over the sum of squared deviations, each by its degrees of
    freedom; at least 1 (Kish 1965, the design effect).

    Args:
        values: A number for each problem and latent, `[units, d_sae]`.
        known: The problems that count.
        chance: Which groups there are.
    """
    assert values.shape is not None
    if chance.group is None or not len(known):
        return np.ones(values.shape[1])
    group = np.unique(chance.group[known], return_inverse=True)[1]
    values = sp.csr_array(values[known])
    n, sizes = len(known), np.bincount(group)
    total = sp.csr_array(sp.csr_array((np.ones(n), (group, np.arange(n)))) @ values)
    mean = values.sum(0) / n
    by_group = total.power(2).sum(0) - 2 * mean * (sizes @ total) + mean**2 * float(sizes @ sizes)
    alone = values.power(2).sum(0) - n * mean**2
    ratio = np.divide(by_group, alone, out=np.ones(len(mean)), where=alone > 1e-24)
    return np.maximum(ratio * (len(sizes) / max(len(sizes) - 1, 1)) * ((n - 1) / n), 1.0)


def binned(z: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Bin of each |z| in `Null.counts`."""
    return np.minimum(np.abs(z) * null_loops.BINS_PER_Z, null_loops.Z_BINS - 1).astype(np.int64)


def _at_least(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts[::-1])[::-1]
