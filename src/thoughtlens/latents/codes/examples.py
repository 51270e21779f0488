"""Strongest and typical examples of each latent, and what a latent does around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.latents.codes import loops
from thoughtlens.latents.codes.association import rank_within
from thoughtlens.latents.codes.fires import Fires
from thoughtlens.numerics import share


@dataclass(frozen=True, eq=False)
class Examples:
    """Vectors of some firings, by latent (and decile) and rank."""

    latent: Int[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]
    vector: Int[np.ndarray, " n"]
    decile: Int[np.ndarray, " n"] | None = None
    """1 (weakest) to 10, where the examples are drawn from deciles."""

    def take(self, own: slice) -> Examples:
        """Some of them."""
        columns = {name: v[own] for name, v in vars(self).items() if v is not None}
        return Examples(**columns)


def top_examples(
    fires: Fires, row: Int[np.ndarray, " places"], group: Int[np.ndarray, " units"], k: int
) -> Examples:
    """The k strongest vectors of each latent, at most one for each group of problems.

    A latent that also goes below 0 shows half of each side, more of one where the other has fewer. Ties go
    to the lowest row, then to the first hook.

    Args:
        fires: Of every latent.
        row: Row number of each place, by which ties are broken; ascending within a problem.
        group: Group of each problem, as copies have one.
        k: Examples to keep for each.
    """
    best = _strongest(fires, row, group, 1, k)
    if fires.value.min(initial=0) < 0:
        sides = best, _strongest(fires, row, group, -1, k)
        above, below = ((side >= 0).sum(1) for side in sides)
        low = np.minimum(below, np.maximum(k // 2, k - above))
        shown = [np.arange(k) < n[:, None] for n in (np.minimum(above, k - low), low)]
        both = np.where(np.hstack(shown), np.hstack(sides), -1)
        size = np.where(both >= 0, np.abs(fires.value[both]), -1)
        best = np.take_along_axis(both, np.argsort(-size, axis=1, kind="stable")[:, :k], axis=1)
    latent, rank = np.nonzero(best >= 0)
    at = best[latent, rank]
    return Examples(latent, rank, fires.value[at], fires.vector[at].astype(np.int64))


def _strongest(fires: Fires, row: np.ndarray, group: np.ndarray, sign: int, k: int) -> np.ndarray:
    best = np.full((fires.d_sae, k), -1, np.int64)
    share(loops.strongest, fires.d_sae, fires, row, group, sign, best)
    return best


def decile_examples(
    fires: Fires, group: Int[np.ndarray, " units"], n: int, seed: int
) -> tuple[Float[np.ndarray, "d_sae 11"], Examples]:
    """True deciles of each latent's activation over its firings, and a uniform sample of them from each.

    Edges are interpolated linearly between firings, 0 for a latent that never fires; a decile has those
    from its lower edge to below its upper one (ties in the order of vectors). Within a decile the strongest
    of the sample has rank 0.

    Args:
        fires: Of every latent.
        group: Group of each problem: a decile shows one firing of each, the next one of another group where
            its own was drawn already.
        n: Firings drawn from each decile without replacement; all where it has fewer groups.
        seed: Of the draws.
    """
    draws = np.random.default_rng(seed).random((fires.d_sae, 10, n))
    edges, samples = np.zeros((fires.d_sae, 11)), np.full((fires.d_sae, 10, n), -1, np.int64)
    share(loops.deciles, fires.d_sae, fires, group, draws, edges, samples)
    samples = samples[:, ::-1, ::-1]  # strongest first
    latent, tenth, slot = np.nonzero(samples >= 0)
    at = samples[latent, tenth, slot]
    rank = rank_within(latent * 10 + tenth)
    found = Examples(latent, rank, fires.value[at], fires.vector[at].astype(np.int64), 10 - tenth)
    return edges, found


def look_up(
    fires: Fires, latent: Int[np.ndarray, " n"], vector: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """The activation of chosen latents on chosen vectors; 0 where they do not fire."""
    found = np.zeros(len(latent), np.float32)
    share(loops.look_up, len(latent), fires, latent, vector, found)
    return found


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
