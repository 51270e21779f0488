"""The loops behind associations and their permutation nulls, compiled by numba; arguments as in `loops`.

Every loop fills `null_max [P]` of its piece, the largest |z| of each permutation, and `null_counts`, how many
|z| of all permutations fall into each bin, and returns both: maxima and whole numbers, so that it does not
matter how latents are dealt out over threads.
"""

from __future__ import annotations

import numpy as np

from thoughtlens.explain.loops import insert
from thoughtlens.kernels.loops import compiled

Z_BINS, BINS_PER_Z = 10_000, 100.0


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
    starts, vectors, unit, n_hooks, weight, word_starts, word, sizes, shuffled, min_units, longest, fires,
    units, total, square, whole, squares, lo, hi,
):  # fmt: skip
    """Words that a problem's text has or not: as `labels`, each word against all texts without it.

    Text `t` has the words `word[word_starts[t] : word_starts[t + 1]]`; `shuffled [P, units]` is the text that
    a problem is given under each permutation.
    """
    n_words, n_null, n = len(sizes), shuffled.shape[0], shuffled.shape[1]
    null_max, null_counts = np.zeros(n_null), np.zeros(Z_BINS, np.int64)
    who, share = np.empty(longest, np.int64), np.empty(longest, np.float32)
    sums = np.zeros(n_words, np.float32)
    for j in range(lo, hi):
        m = shares(starts[j], starts[j + 1], vectors, unit, n_hooks, weight, who, share)
        for i in range(m):
            u, x = who[i], np.float64(share[i])
            whole[j] += x
            squares[j] += x * x
            for k in range(word_starts[u], word_starts[u + 1]):
                fires[j, word[k]] += int(np.rint(x / weight[u]))
                units[j, word[k]] += 1
                total[j, word[k]] += x
                square[j, word[k]] += x * x
        variance = squares[j] / n - (whole[j] / n) ** 2
        if m < min_units or not variance > 1e-24:
            continue
        for p in range(n_null):
            sums[:] = 0
            for i in range(m):
                u = shuffled[p, who[i]]
                for k in range(word_starts[u], word_starts[u + 1]):
                    sums[word[k]] += share[i]
            for w in range(n_words):
                own, rest = sizes[w], n - sizes[w]
                scale = np.sqrt(variance * (1 / own + 1 / rest))
                _note((sums[w] / own - (whole[j] - sums[w]) / rest) / scale, p, null_max, null_counts)
    return null_max, null_counts


@compiled
def tokens(
    starts, vectors, unit, first, n_hooks, token, base, shift, min_fires, min_units, found, score, numbers,
    lo, hi,
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
    for j in range(lo, hi):
        n_fires = np.float64(starts[j + 1] - starts[j])
        for p in range(-1, n_null):
            if n_fires < min_fires:
                break
            n, squares = _token_sums(
                starts[j], starts[j + 1], vectors, unit, first, n_hooks, token, shift, p, inside, seen, sums
            )
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
                        low = max(share - 1.959963984540054 * spread, 0.0) / base[t]
                        at = insert(found[j], score[j], t, low)
                        for q in range(found.shape[1] - 1, at, -1):
                            numbers[j, q] = numbers[j, q - 1]
                        if at < found.shape[1]:
                            numbers[j, at, 0], numbers[j, at, 1] = sums[t, 0], sums[t, 1]
                            numbers[j, at, 2], numbers[j, at, 3], numbers[j, at, 4] = share, spread, z
                sums[t] = 0
    return null_max, null_counts, mine


@compiled
def _token_sums(i, stop, vectors, unit, first, n_hooks, token, shift, p, inside, seen, sums):
    """Of each token that a latent fires on: fires, documents, squares, products with all of a document's."""
    n, squares = 0, 0.0
    while i < stop:
        u, begin, own = unit[vectors[i] // n_hooks], i, 0.0
        while i < stop and unit[vectors[i] // n_hooks] == u:
            inside[_token_at(vectors[i] // n_hooks, u, first, token, shift, p)] += 1
            own, i = own + 1, i + 1
        squares += own * own
        for k in range(begin, i):
            t = _token_at(vectors[k] // n_hooks, u, first, token, shift, p)
            c = inside[t]
            if c > 0:
                if sums[t, 0] == 0:
                    seen[n] = t
                    n += 1
                sums[t, 0] += c
                sums[t, 1] += 1
                sums[t, 2] += c * c
                sums[t, 3] += c * own
                inside[t] = 0
    return n, squares


@compiled
def _token_at(place, u, first, token, shift, p):
    if p < 0:
        return token[place]
    size, q = first[u + 1] - first[u], place - first[u] + shift[u, p]
    return token[first[u] + (q if q < size else q - size)]
