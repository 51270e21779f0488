"""The loops behind associations and their permutation nulls, compiled by numba; arguments as in `loops`.

Every loop fills `null_max [P]` of its piece, the largest |z| of each permutation, and `null_counts`, how many
|z| of all permutations fall into each bin, and returns both: maxima and whole numbers, so that it does not
matter how latents are dealt out over threads.
"""

from __future__ import annotations

import numpy as np

from thoughtlens.latents.stats.loops import insert
from thoughtlens.numerics.kernels.loops import compiled

Z_BINS, BINS_PER_Z = 10_000, 100.0
Z95 = 1.959963984540054


@compiled
def _note(z, p, null_max, null_counts):
    z = abs(z)
    null_max[p] = max(null_max[p], z)
    null_counts[int(min(z * BINS_PER_Z, Z_BINS - 1))] += 1


@compiled
def inside(
    starts, vectors, unit, first, n_hooks, level, exposure, shift, over_hooks, min_units, fires, units,
    rate_in, rate_out, square, excess, variance, lo, hi,
):  # fmt: skip
    """Levels that vary inside a problem, each against the rest of the same problem.

    `exposure [units, levels]` counts a problem's vectors; `shift [units, P]` moves the levels of a problem's
    places around (its hooks, where `over_hooks`). `excess` becomes fires at the level minus those expected
    from the problem's own rate, `variance` what that has if levels are dealt out at random inside problems.
    """
    n_levels, n_null = exposure.shape[1], shift.shape[1]
    null_max, null_counts = np.zeros(n_null), np.zeros(Z_BINS, np.int64)
    here, moved = np.zeros(n_levels, np.int64), np.zeros((n_levels, n_null), np.int32)
    for j in range(lo, hi):
        i, stop = starts[j], starts[j + 1]
        while i < stop:
            u, here[:], n = unit[vectors[i] // n_hooks], 0, 0
            while i < stop and unit[vectors[i] // n_hooks] == u:
                here[level[vectors[i]]] += 1
                n, i = n + 1, i + 1
            _add_unit(j, u, here, n, exposure, fires, units, rate_in, rate_out, square, excess, variance)
        most = 0
        for v in range(n_levels):
            most = max(most, units[v, j])
        if most < min_units:
            continue
        moved[:] = 0
        _move(starts[j], stop, vectors, unit, first, n_hooks, level, shift, over_hooks, moved)
        for v in range(n_levels):
            if variance[v, j] > 0:
                expected, spread = fires[v, j] - excess[v, j], np.sqrt(variance[v, j])
                for p in range(n_null):
                    _note((moved[v, p] - expected) / spread, p, null_max, null_counts)
    return null_max, null_counts


@compiled
def _add_unit(j, u, here, n, exposure, fires, units, rate_in, rate_out, square, excess, variance):
    size = 0
    for v in range(len(here)):
        size += exposure[u, v]
    for v in range(len(here)):
        own = exposure[u, v]
        fires[v, j] += here[v]
        units[v, j] += here[v] > 0
        if 0 < own < size:
            a, b = here[v] / own, (n - here[v]) / (size - own)
            rate_in[v, j] += a
            rate_out[v, j] += b
            square[v, j] += (a - b) ** 2
        share = own / size
        excess[v, j] += here[v] - n * share
        if size > 1:
            variance[v, j] += n * share * (1 - share) * (size - n) / (size - 1)


@compiled
def _move(i, stop, vectors, unit, first, n_hooks, level, shift, over_hooks, moved):
    """Add to `moved [levels, P]` where the fires fall when each problem's levels are shifted."""
    n_null = shift.shape[1]
    while i < stop:
        place, hook = vectors[i] // n_hooks, vectors[i] % n_hooks
        u = unit[place]
        base, size = first[u], first[u + 1] - first[u]
        for p in range(n_null):
            if over_hooks:
                h = hook + shift[u, p]
                to = place * n_hooks + (h if h < n_hooks else h - n_hooks)
            else:
                q = place - base + shift[u, p]
                to = (base + (q if q < size else q - size)) * n_hooks + hook
            moved[level[to], p] += 1
        i += 1


@compiled
def count_units(starts, vectors, unit, n_hooks, units, lo, hi):
    """`units[j]`: problems in which latent j fires."""
    for j in range(lo, hi):
        before = -1
        for i in range(starts[j], starts[j + 1]):
            units[j] += unit[vectors[i] // n_hooks] != before
            before = unit[vectors[i] // n_hooks]


@compiled
def shares(start, stop, vectors, unit, n_hooks, weight, units, share):
    """The problems in which a latent fires and the share of their vectors on which it does; how many."""
    n = 0
    for i in range(start, stop):
        u = unit[vectors[i] // n_hooks]
        if n == 0 or units[n - 1] != u:
            units[n], share[n] = u, np.float32(0)
            n += 1
        share[n - 1] += weight[u]
    return n


@compiled
def labels(
    starts, vectors, unit, n_hooks, weight, label, sizes, shuffled, min_units, longest, fires, units, total,
    square, lo, hi,
):  # fmt: skip
    """Labels of whole problems: sums and squares over each class of the share of vectors that fire.

    `weight [units]` is 1 / vectors, `label [units]` the class (-1: none), `sizes` the problems of each class,
    `shuffled [units, P]` the class under each permutation.
    """
    n_levels, n_null = len(sizes), shuffled.shape[1]
    null_max, null_counts = np.zeros(n_null), np.zeros(Z_BINS, np.int64)
    who, share = np.empty(longest, np.int64), np.empty(longest, np.float32)
    sums = np.zeros((n_levels, n_null), np.float32)
    for j in range(lo, hi):
        n, known = shares(starts[j], starts[j + 1], vectors, unit, n_hooks, weight, who, share), 0
        for i in range(n):
            v = label[who[i]]
            if v >= 0:
                x = np.float64(share[i])
                known += 1
                fires[v, j] += int(np.rint(x / weight[who[i]]))
                units[v, j] += 1
                total[v, j] += x
                square[v, j] += x * x
        if known < min_units:
            continue
        sums[:] = 0
        for i in range(n):
            row, x = shuffled[who[i]], share[i]
            for v in range(n_levels):
                own = sums[v]
                for p in range(n_null):
                    own[p] += x if row[p] == v else np.float32(0)
        _note_labels(j, sizes, total, square, sums, null_max, null_counts)
    return null_max, null_counts


@compiled
def _note_labels(j, sizes, total, square, sums, null_max, null_counts):
    whole, squares, n = 0.0, 0.0, 0
    for v in range(len(sizes)):
        whole, squares, n = whole + total[v, j], squares + square[v, j], n + sizes[v]
    variance = squares / n - (whole / n) ** 2
    for v in range(len(sizes)):
        own, rest = sizes[v], n - sizes[v]
        if variance > 1e-24 and own > 1 and rest > 1:
            scale = np.sqrt(variance * (1 / own + 1 / rest))
            for p in range(sums.shape[1]):
                _note((sums[v, p] / own - (whole - sums[v, p]) / rest) / scale, p, null_max, null_counts)


@compiled
def correlations(
    starts, vectors, unit, n_hooks, weight, score, shuffled, n, min_units, longest, fires, units, total,
    square, product, lo, hi,
):  # fmt: skip
    """A number of whole problems, in standard units (0 where missing), times the share of vectors that fire.

    `shuffled [units, P]` is the number under each permutation, `n` the problems that have one.
    """
    n_null = shuffled.shape[1]
    null_max, null_counts = np.zeros(n_null), np.zeros(Z_BINS, np.int64)
    who, share = np.empty(longest, np.int64), np.empty(longest, np.float32)
    sums = np.zeros(n_null, np.float32)
    for j in range(lo, hi):
        m = shares(starts[j], starts[j + 1], vectors, unit, n_hooks, weight, who, share)
        sums[:] = 0
        for i in range(m):
            u, x = who[i], np.float64(share[i])
            if score[u] == score[u]:
                fires[j] += int(np.rint(x / weight[u]))
                units[j] += 1
                total[j] += x
                square[j] += x * x
                product[j] += x * score[u]
        variance = square[j] / n - (total[j] / n) ** 2
        if units[j] < min_units or not variance > 1e-24:
            continue
        for i in range(m):
            row, s = shuffled[who[i]], share[i]
            for p in range(n_null):
                sums[p] += s * row[p]
        for p in range(n_null):
            _note(sums[p] / np.sqrt(n * variance), p, null_max, null_counts)
    return null_max, null_counts


@compiled
def words(
    starts, vectors, unit, n_hooks, weight, has, sizes, shuffled, min_units, longest, fires, units, total,
    square, whole, squares, lo, hi,
):  # fmt: skip
    """Words that a problem's text has or not: as `labels`, each word against all texts without it.

    `has [units, words]` is 1 where a text has a word, `sizes` the texts that have it, `shuffled [P, units]`
    the text that a problem is given under each permutation.
    """
    n_null, (n, n_words) = shuffled.shape[0], has.shape
    null_max, null_counts = np.zeros(n_null), np.zeros(Z_BINS, np.int64)
    who, share = np.empty(longest, np.int64), np.empty(longest, np.float32)
    sums, scale = np.zeros(n_words, np.float32), np.zeros(n_words)
    for j in range(lo, hi):
        m = shares(starts[j], starts[j + 1], vectors, unit, n_hooks, weight, who, share)
        for i in range(m):
            row, x = has[who[i]], np.float64(share[i])
            count = int(np.rint(x / weight[who[i]]))
            whole[j] += x
            squares[j] += x * x
            for w in range(n_words):
                if row[w]:
                    fires[j, w] += count
                    units[j, w] += 1
                    total[j, w] += x
                    square[j, w] += x * x
        variance = squares[j] / n - (whole[j] / n) ** 2
        if m < min_units or not variance > 1e-24:
            continue
        for w in range(n_words):
            scale[w] = 1 / np.sqrt(variance * (1 / sizes[w] + 1 / (n - sizes[w])))
        for p in range(n_null):
            sums[:] = 0
            for i in range(m):
                row, x = has[shuffled[p, who[i]]], share[i]
                for w in range(n_words):
                    sums[w] += x * np.float32(row[w])
            for w in range(n_words):
                gap = sums[w] / sizes[w] - (whole[j] - sums[w]) / (n - sizes[w])
                _note(gap * scale[w], p, null_max, null_counts)
    return null_max, null_counts


@compiled
def tokens(
    starts, vectors, unit, first, n_hooks, token, base, shift, min_fires, min_units, longest, found, score,
    numbers, lo, hi,
):  # fmt: skip
    """Tokens on which a latent fires more often than on others, documents as the unit.

    `base [tokens]` is the share of vectors that are the token; `shift [units, P]` moves a document's tokens
    around. Of the pairs with support, `found [d_sae, most]` becomes the tokens whose lift has the highest
    lower end (`score`), `numbers [d_sae, most, 5]` their fires, documents, share of the latent's fires, its
    spread and z. Also returns how many |z| of all of them fall into each bin.
    """
    n_null, n_tokens = shift.shape[1], len(base)
    null_max, null_counts = np.zeros(n_null), np.zeros(Z_BINS, np.int64)
    mine, own_max = np.zeros(Z_BINS, np.int64), np.zeros(1)
    inside, seen, sums = np.zeros(n_tokens), np.empty(n_tokens, np.int64), np.zeros((n_tokens, 4))
    at, now, bound = np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest + 1, np.int64)
    for j in range(lo, hi):
        n_fires = starts[j + 1] - starts[j]
        if n_fires < min_fires:
            continue
        n_own, squares = _stretches(starts[j], starts[j + 1], vectors, unit, n_hooks, at, bound)
        for p in range(-1, n_null):
            n = _token_sums(n_own, bound, at, unit, first, token, shift, p, inside, now, seen, sums)
            for i in range(n):
                t = seen[i]
                if sums[t, 0] >= min_fires and sums[t, 1] >= min_units:
                    share = sums[t, 0] / n_fires
                    spread = sums[t, 2] - 2 * share * sums[t, 3] + share * share * squares
                    spread = np.sqrt(max(spread, 0.0)) / n_fires
                    gap = share - base[t]
                    z = gap / spread if spread > 0 else (np.inf if gap > 1e-12 else 0.0)
                    if p >= 0:
                        _note(z, p, null_max, null_counts)
                    else:
                        _note(z, 0, own_max, mine)
                        low = max(share - Z95 * spread, 0.0) / base[t]
                        _list(
                            found[j], score[j], numbers[j], t, low, sums[t, 0], sums[t, 1], share, spread, z
                        )
                sums[t, 0], sums[t, 1], sums[t, 2], sums[t, 3] = 0, 0, 0, 0
    return null_max, null_counts, mine


@compiled
def _stretches(start, stop, vectors, unit, n_hooks, at, bound):
    """Places of a latent's fires, and where each of its documents begins among them; how many, and the sum of
    their squared fires."""
    n, squares = 0, 0.0
    for i in range(stop - start):
        at[i] = vectors[start + i] // n_hooks
        if i == 0 or unit[at[i]] != unit[at[i - 1]]:
            bound[n] = i
            n += 1
    bound[n] = stop - start
    for g in range(n):
        squares += np.float64(bound[g + 1] - bound[g]) ** 2
    return n, squares


@compiled
def _token_sums(n_own, bound, at, unit, first, token, shift, p, inside, now, seen, sums):
    """Of each token that a latent fires on: fires, documents, squares, products with all of a document's."""
    n = 0
    for g in range(n_own):
        u, own = unit[at[bound[g]]], np.float64(bound[g + 1] - bound[g])
        base, size, moved = first[u], first[u + 1] - first[u], 0 if p < 0 else shift[u, p]
        for i in range(bound[g], bound[g + 1]):
            q = at[i] - base + moved
            now[i] = token[base + (q if q < size else q - size)]
            inside[now[i]] += 1
        for i in range(bound[g], bound[g + 1]):
            t, c = now[i], inside[now[i]]
            if c > 0:
                if sums[t, 0] == 0:
                    seen[n] = t
                    n += 1
                sums[t, 0] += c
                sums[t, 1] += 1
                sums[t, 2] += c * c
                sums[t, 3] += c * own
                inside[t] = 0
    return n


@compiled
def _list(ids, scores, numbers, new, score, fires, units, share, spread, z):
    """Add a token and its numbers to the list of a latent's best, if it is among them."""
    at = insert(ids, scores, new, score)
    for p in range(len(ids) - 1, at, -1):
        numbers[p] = numbers[p - 1]
    if at < len(ids):
        numbers[at, 0], numbers[at, 1], numbers[at, 2] = fires, units, share
        numbers[at, 3], numbers[at, 4] = spread, z
