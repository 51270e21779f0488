"""The loops behind the statistics of latents, compiled by numba: each does the latents of its `piece`.

A latent is computed by one call and in one order, so that results do not depend on the number of threads.
`fires` are `codes.fires.Fires`. Arrays are taken out of their tuples before a loop, where that costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.numerics import compiled

LOG2_LOW, BINS_PER_OCTAVE = -12, 4
"""Lower edge of the histogram, and its bins."""


class Sums(NamedTuple):
    """What `summaries` adds up."""

    units: Int[np.ndarray, " d_sae"]
    total: Float[np.ndarray, " d_sae"]
    size: Float[np.ndarray, " d_sae"]
    top: Float[np.ndarray, " d_sae"]
    bottom: Float[np.ndarray, " d_sae"]
    marked: Float[np.ndarray, "marks d_sae"]
    histogram: Int[np.ndarray, "d_sae bins"]


class Partners(NamedTuple):
    """What `coactive` finds."""

    other: Int[np.ndarray, "d_sae top"]
    both: Int[np.ndarray, "d_sae top"]
    jaccard: Float[np.ndarray, "d_sae top"]


class Common(NamedTuple):
    """What `common_tokens` finds."""

    token: Int[np.ndarray, "d_sae top"]
    fires: Float[np.ndarray, "d_sae top"]


@compiled
def insert(ids, scores, new, score):
    """Keep the highest scores in falling order, lowest id first among equals; -1 marks a free slot.

    Returns:
        Where it went; the number of slots if nowhere.
    """
    at = len(ids)
    while at > 0 and (
        ids[at - 1] < 0 or scores[at - 1] < score or (scores[at - 1] == score and ids[at - 1] > new)
    ):
        at -= 1
    if at < len(ids):
        for p in range(len(ids) - 1, at, -1):
            ids[p], scores[p] = ids[p - 1], scores[p - 1]
        ids[at], scores[at] = new, score
    return at


@compiled
def summaries(fires, marks, sums, piece):
    """Problems, sums, maximum and minimum of each latent, its size on marked places, its log2 histogram."""
    starts, vectors, values, unit, n_hooks = (
        fires.indptr,
        fires.vector,
        fires.value,
        fires.unit,
        fires.n_hooks,
    )
    units, total, size, top, bottom, marked, histogram = sums
    bins = histogram.shape[1]
    for j in range(piece.lo, piece.hi):
        before = -1
        for i in range(starts[j], starts[j + 1]):
            place, x = vectors[i] // n_hooks, np.float64(values[i])
            units[j] += unit[place] != before
            before = unit[place]
            total[j] += x
            size[j] += abs(x)
            top[j], bottom[j] = max(top[j], x), min(bottom[j], x)
            for m in range(marks.shape[0]):
                marked[m, j] += abs(x) if marks[m, place] else 0.0
            b = int(np.floor((np.log2(abs(x)) - LOG2_LOW) * BINS_PER_OCTAVE))
            histogram[j, min(max(b, 0), bins - 1)] += 1


@compiled
def deciles(fires, group, draws, edges, samples, piece):
    """The eleven quantiles of each latent's activations, and firings drawn from each tenth of them.

    `draws [d_sae, 10, m]` are uniform numbers; `samples` becomes the drawn firings' positions among all,
    ascending by activation within a tenth, one for each group of problems, -1 where it has fewer.
    """
    starts, values, m = fires.indptr, fires.value, draws.shape[2]
    chosen, seen = np.empty(m, np.int64), np.empty(m, np.int64)
    for j in range(piece.lo, piece.hi):
        start, n = starts[j], starts[j + 1] - starts[j]
        if n == 0:
            continue
        order = np.argsort(values[start : start + n], kind="mergesort")
        for d in range(11):
            at = (n - 1) * d / 10.0
            below = int(at)
            a = np.float64(values[start + order[below]])
            b = np.float64(values[start + order[min(below + 1, n - 1)]])
            edges[j, d] = a + (at - below) * (b - a)
        for d in range(10):
            low = ((n - 1) * d + 9) // 10  # the first firing that reaches the edge below
            size = (((n - 1) * (d + 1) + 9) // 10 if d < 9 else n) - low
            for i in range(min(m, size)):
                pick = min(int(draws[j, d, i] * (size - i)), size - i - 1)
                at = 0
                while at < i and chosen[at] <= pick:
                    pick, at = pick + 1, at + 1
                for k in range(i, at, -1):
                    chosen[k] = chosen[k - 1]
                chosen[at] = pick
            n_seen = 0
            for i in range(min(m, size)):
                for step in range(size):  # the next of another group, where its own was drawn already
                    pick = (chosen[i] + step) % size
                    own = group[fires.unit[fires.vector[start + order[low + pick]] // fires.n_hooks]]
                    if not (seen[:n_seen] == own).any():
                        seen[n_seen], chosen[n_seen] = own, pick
                        n_seen += 1
                        break
            chosen[:n_seen].sort()
            for i in range(n_seen):
                samples[j, d, i] = start + order[low + chosen[i]]


@compiled
def strongest(fires, row, group, sign, best, piece):
    """Positions among all firings of each latent's strongest of one sign, one for each group of problems, -1
    where there are fewer.

    Ties go to the lowest row, then to the first hook.
    """
    starts, unit, k = fires.indptr, fires.unit, best.shape[1]
    for j in range(piece.lo, piece.hi):
        n, ids = 0, best[j]
        for i in range(starts[j], starts[j + 1]):
            if sign * fires.value[i] <= 0 or (n == k and not _before(i, ids[k - 1], sign, fires, row)):
                continue
            own, at = group[unit[fires.vector[i] // fires.n_hooks]], 0
            while at < n and group[unit[fires.vector[ids[at]] // fires.n_hooks]] != own:
                at += 1
            if at == n:
                n, at = min(n + 1, k), min(n, k - 1)
            elif not _before(i, ids[at], sign, fires, row):
                continue
            while at > 0 and _before(i, ids[at - 1], sign, fires, row):
                ids[at] = ids[at - 1]
                at -= 1
            ids[at] = i


@compiled
def _before(a, b, sign, fires, row):
    if fires.value[a] != fires.value[b]:
        return sign * fires.value[a] > sign * fires.value[b]
    return row[fires.vector[a] // fires.n_hooks] < row[fires.vector[b] // fires.n_hooks]


@compiled
def look_up(fires, latent, vector, out, piece):
    """`out[i]`: the activation of `latent[i]` on `vector[i]`, 0 where it does not fire."""
    starts, vectors, values = fires.indptr, fires.vector, fires.value
    for i in range(piece.lo, piece.hi):
        low, high = starts[latent[i]], starts[latent[i] + 1]
        end = high
        while low < high:
            middle = (low + high) // 2
            if vectors[middle] < vector[i]:
                low = middle + 1
            else:
                high = middle
        out[i] = values[low] if low < end and vectors[low] == vector[i] else 0


@compiled
def level_counts(fires, level, out, piece):
    """`out[j, level]`: firings of each latent on the vectors of each level; level -1 is left out."""
    starts, vectors = fires.indptr, fires.vector
    for j in range(piece.lo, piece.hi):
        for i in range(starts[j], starts[j + 1]):
            if level[vectors[i]] >= 0:
                out[j, level[vectors[i]]] += 1


@compiled
def common_tokens(fires, token, n_tokens, common, piece):
    """The tokens on which each latent fires most often (ties: lowest id) and how often; -1 where fewer."""
    starts, vectors, n_hooks = fires.indptr, fires.vector, fires.n_hooks
    count, seen = np.zeros(n_tokens, np.int64), np.empty(n_tokens, np.int64)
    for j in range(piece.lo, piece.hi):
        n = 0
        for i in range(starts[j], starts[j + 1]):
            t = token[vectors[i] // n_hooks]
            if count[t] == 0:
                seen[n] = t
                n += 1
            count[t] += 1
        for i in range(n):
            insert(common.token[j], common.fires[j], seen[i], np.float64(count[seen[i]]))
            count[seen[i]] = 0


@compiled
def coactive(fires, by_vector, partners, piece):
    """The latents that fire on the same vectors as each latent, by Jaccard index (ties: lowest latent)."""
    starts, vectors, row_starts, row_latents = fires.indptr, fires.vector, by_vector.indptr, by_vector.indices
    other, both, jaccard = partners
    d_sae = len(starts) - 1
    count, seen = np.zeros(d_sae, np.int32), np.empty(d_sae, np.int32)
    for j in range(piece.lo, piece.hi):
        n = 0
        for i in range(starts[j], starts[j + 1]):
            for p in range(row_starts[vectors[i]], row_starts[vectors[i] + 1]):
                o = row_latents[p]
                if count[o] == 0:
                    seen[n] = o
                    n += 1
                count[o] += 1
        own = starts[j + 1] - starts[j]
        for i in range(n):
            o = seen[i]
            if o != j:
                union = own + starts[o + 1] - starts[o] - count[o]
                insert(other[j], jaccard[j], o, count[o] / np.float64(union))
        for p in range(other.shape[1]):
            both[j, p] = count[other[j, p]] if other[j, p] >= 0 else 0
        for i in range(n):
            count[seen[i]] = 0
