"""What chance does: permutations, and what p and false-discovery rate follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.latents.stats import null_loops


@dataclass(frozen=True, kw_only=True)
class Chance:
    """How chance is drawn, and the support below which nothing is tested."""

    n_permutations: int = 200
    seed: int = 0
    min_units: int = 10
    """Problems in which a latent must fire."""

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


def shifts(size: Int[np.ndarray, " units"], chance: Chance) -> Int[np.ndarray, "units permutations"]:
    """Random shifts of every problem, each from 0 to its size - 1."""
    drawn = chance.rng.random((len(size), chance.n_permutations), np.float32)
    drawn *= size[:, None].astype(np.float32)
    found = drawn.astype(np.int32)
    return np.minimum(found, size[:, None].astype(np.int32) - 1, out=found)


def binned(z: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Bin of each |z| in `Null.counts`."""
    return np.minimum(np.abs(z) * null_loops.BINS_PER_Z, null_loops.Z_BINS - 1).astype(np.int64)


def _at_least(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts[::-1])[::-1]
