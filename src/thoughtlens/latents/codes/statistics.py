"""Count, density, mean, maximum, histogram and deciles of each latent, and where it fires how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from thoughtlens.latents.codes import loops
from thoughtlens.latents.codes.codes import Compressed
from thoughtlens.latents.codes.fires import Fires
from thoughtlens.numerics import share

N_BINS = 96
HISTOGRAM_EDGES = tuple(2.0 ** (loops.LOG2_LOW + i / loops.BINS_PER_OCTAVE) for i in range(N_BINS + 1))
"""Edges of the histogram's bins; the first and the last bin also take what lies beyond."""


@dataclass(frozen=True, eq=False)
class LatentStats:
    """What can be said of each latent by itself; a latent that never fires has 0 everywhere."""

    n_vectors: int
    n_units: int
    fires: Int[np.ndarray, " d_sae"]
    units: Int[np.ndarray, " d_sae"]
    """Problems in which it fires."""
    total: Float[np.ndarray, " d_sae"]
    """Summed activation."""
    size: Float[np.ndarray, " d_sae"]
    """Summed size of the activation: the same unless it goes below 0."""
    max: Float[np.ndarray, " d_sae"]
    min: Float[np.ndarray, " d_sae"]
    """0 unless it goes below."""
    marked: Float[np.ndarray, "marks d_sae"]
    """Summed size of the activation on places of each kind."""
    histogram: Int[np.ndarray, "d_sae bins"]

    @property
    def density(self) -> Float[np.ndarray, " d_sae"]:
        """Share of vectors on which each latent fires."""
        return self.fires / max(self.n_vectors, 1)

    @property
    def mean_active(self) -> Float[np.ndarray, " d_sae"]:
        """Mean activation where it fires."""
        return self.total / np.maximum(self.fires, 1)

    def marked_share(self, mark: int) -> Float[np.ndarray, " d_sae"]:
        """Share of each latent's summed activation that is on places of this kind."""
        return self.marked[mark] / np.where(self.size > 0, self.size, 1.0)


def latent_stats(fires: Fires, marks: Mapping[str, Bool[np.ndarray, " places"]]) -> LatentStats:
    """One pass over all firings; each of `marks` says which places are of some kind."""
    d_sae = fires.d_sae
    kinds = np.zeros((len(marks), len(fires.unit)), np.uint8)
    for i, mark in enumerate(marks.values()):
        kinds[i] = mark
    sums = loops.Sums(
        units=np.zeros(d_sae, np.int64),
        total=np.zeros(d_sae),
        size=np.zeros(d_sae),
        top=np.zeros(d_sae),
        bottom=np.zeros(d_sae),
        marked=np.zeros((len(marks), d_sae)),
        histogram=np.zeros((d_sae, N_BINS), np.int64),
    )
    share(loops.summaries, d_sae, fires, kinds, sums)
    return LatentStats(fires.n_vectors, fires.n_units, fires.counts, *sums)


def level_counts(
    fires: Fires, level: Int[np.ndarray, " vectors"], n_levels: int
) -> tuple[Int[np.ndarray, "d_sae levels"], Int[np.ndarray, " levels"]]:
    """Firings of each latent on the vectors of each level, and the vectors of each; level -1 is left out."""
    found = np.zeros((fires.d_sae, n_levels), np.int64)
    level = level.astype(np.int32)
    share(loops.level_counts, fires.d_sae, fires, level, found)
    return found, np.bincount(level[level >= 0], minlength=n_levels)


def common_tokens(
    fires: Fires, token: Int[np.ndarray, " places"], top: int
) -> tuple[Int[np.ndarray, "d_sae top"], Int[np.ndarray, "d_sae top"]]:
    """The tokens on which each latent fires most often and how often; -1 where there are fewer."""
    common = loops.Common(np.full((fires.d_sae, top), -1, np.int64), np.zeros((fires.d_sae, top)))
    n_tokens = int(token.max(initial=0)) + 1
    share(loops.common_tokens, fires.d_sae, fires, token.astype(np.int32), n_tokens, common)
    return common.token, common.fires.astype(np.int64)


def coactive(fires: Fires, by_vector: Compressed, top: int) -> loops.Partners:
    """The latents that fire on the same vectors: which (-1: none left), on how many, and the Jaccard index.

    Jaccard: vectors on which both fire over vectors on which at least one does. Memory is a count for each
    latent.

    Args:
        fires: By latent.
        by_vector: The same by vector.
        top: Partners kept.
    """
    shape = (fires.d_sae, top)
    found = loops.Partners(np.full(shape, -1, np.int64), np.zeros(shape, np.int64), np.zeros(shape))
    share(loops.coactive, fires.d_sae, fires, by_vector, found)
    return found
