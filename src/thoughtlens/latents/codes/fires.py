"""Where every latent fires, latent by latent: what all statistics are computed from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.latents.codes.codes import Codes


class Fires(NamedTuple):
    """The firings of each latent in the order of vectors, and the problems that the vectors belong to.

    A tuple of arrays, which compiled loops take as it is.

    Vectors, places and hooks are numbered as in `latents.codes.codes`; a *unit* is a problem (or document)
    that has rows, and its places follow one another.
    """

    indptr: Int[np.ndarray, " d_sae_plus_1"]
    vector: Int[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]
    unit: Int[np.ndarray, " places"]
    first: Int[np.ndarray, " units_plus_1"]
    """First place of each unit, and one past the last place."""
    n_hooks: int

    @classmethod
    def of(cls, codes: Codes) -> Fires:
        """The firings of stored codes; the large arrays stay memory-mapped."""
        problem = codes.problem
        change = problem[1:] != problem[:-1]
        first = np.r_[0, 1 + np.flatnonzero(change), len(problem)]
        unit = np.repeat(np.arange(len(first) - 1, dtype=np.int32), np.diff(first))
        n_hooks = len(codes.hook_names)
        return cls(*codes.by_latent, unit, first, n_hooks)

    def part(self, low: int, high: int) -> Fires:
        """The firings of the latents from `low` to below `high` (or the last), numbered from 0."""
        return self._replace(indptr=self.indptr[low : high + 1])

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return len(self.indptr) - 1

    @property
    def n_units(self) -> int:
        """Number of problems."""
        return len(self.first) - 1

    @property
    def n_vectors(self) -> int:
        """Number of vectors, those on which nothing fires included."""
        return len(self.unit) * self.n_hooks

    @property
    def counts(self) -> Int[np.ndarray, " d_sae"]:
        """Firings of each latent."""
        return np.diff(self.indptr)

    @property
    def vectors_per_unit(self) -> Int[np.ndarray, " units"]:
        """Vectors of each problem."""
        return np.diff(self.first) * self.n_hooks
