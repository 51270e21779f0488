"""The loops behind associations and their permutation nulls, compiled by numba; as those in `loops`.

Every loop fills the `Chances` of its piece and returns them: maxima and whole numbers, so that it does not
matter how latents are dealt out over threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from thoughtlens.latents.codes.loops import insert
from thoughtlens.numerics import compiled

Z_BINS, BINS_PER_Z = 10_000, 100.0
Z95 = 1.959963984540054
FEW_LEVELS = 12
"""Levels up to which comparing with each is faster than looking up where a sum goes."""


class Chances(NamedTuple):
    """What permutations gave: the largest |z| of each, and how many |z| of all fall into each bin."""

    largest: Float[np.ndarray, " permutations"]
    counts: Int[np.ndarray, " bins"]


class Levels(NamedTuple):
    """Levels that vary inside a problem."""

    level: Int[np.ndarray, " vectors"]
    exposure: Int[np.ndarray, "units levels"]
    """A problem's vectors at each level."""
    shift: Int[np.ndarray, "units permutations"]
    """By how much the levels of a problem's places (or hooks) are moved around."""
    over_hooks: bool
    supported: Bool[np.ndarray, " d_sae"]
    """Latents that fire in enough groups of problems."""
    effect: Float[np.ndarray, "levels d_sae"]
    """As in `Units`, of the difference of rates."""


class LevelSums(NamedTuple):
    """Of each level and latent, over problems."""

    n_fires: Int[np.ndarray, "levels d_sae"]
    n_units: Int[np.ndarray, "levels d_sae"]
    rate_in: Float[np.ndarray, "levels d_sae"]
    rate_out: Float[np.ndarray, "levels d_sae"]
    square: Float[np.ndarray, "levels d_sae"]
    excess: Float[np.ndarray, "levels d_sae"]
    """Firings at the level less those expected from each problem's own rate."""
    variance: Float[np.ndarray, "levels d_sae"]
    """Of `excess`, if levels are dealt out at random inside problems."""


class Units(NamedTuple):
    """Problems as the unit of what a latent does: the share of a problem's vectors on which it fires."""

    weight: Float[np.ndarray, " units"]
    """1 / vectors of each."""
    longest: int
    """Most problems that a latent can fire in."""
    supported: Bool[np.ndarray, " d_sae"]
    """Latents that fire in enough groups of problems."""
    effect: Float[np.ndarray, " d_sae"]
    """How many times the variance of a mean is that of independent problems; 1 where they are."""


class Labels(NamedTuple):
    """A class for each problem."""

    label: Int[np.ndarray, " units"]
    """-1: none."""
    sizes: Int[np.ndarray, " levels"]
    shuffled: Int[np.ndarray, "units permutations"]
    drawn: Int[np.ndarray, "levels permutations"]
    """Problems of each class after each permutation: groups differ in size."""


class ClassSums(NamedTuple):
    """Of each class (or word) and latent: firings, problems, and sums of shares and their squares."""

    n_fires: Int[np.ndarray, "a b"]
    n_units: Int[np.ndarray, "a b"]
    total: Float[np.ndarray, "a b"]
    square: Float[np.ndarray, "a b"]


class Numbers(NamedTuple):
    """A number for each problem, in standard units (NaN where missing)."""

    score: Float[np.ndarray, " units"]
    shuffled: Float[np.ndarray, "units permutations"]
    """0 where missing."""
    n: int
    """Problems that have one."""


class NumberSums(NamedTuple):
    """Of each latent."""

    n_fires: Int[np.ndarray, " d_sae"]
    n_units: Int[np.ndarray, " d_sae"]
    total: Float[np.ndarray, " d_sae"]
    square: Float[np.ndarray, " d_sae"]
    product: Float[np.ndarray, " d_sae"]


class Words(NamedTuple):
    """Words that a problem's text has or not."""

    has: UInt8[np.ndarray, "units words"]
    sizes: Int[np.ndarray, " words"]
    """Texts that have it."""
    shuffled: Int[np.ndarray, "units permutations"]
    """The text that a problem is given."""
    drawn: Int[np.ndarray, "permutations words"]
    """Texts that have it then."""


class Totals(NamedTuple):
    """Of each latent, over all problems: sums of shares and their squares."""

    whole: Float[np.ndarray, " d_sae"]
    squares: Float[np.ndarray, " d_sae"]


class Texts(NamedTuple):
    """Tokens of documents."""

    token: Int[np.ndarray, " places"]
    base: Float[np.ndarray, " tokens"]
    """Share of vectors that are the token."""
    shift: Int[np.ndarray, "units permutations"]
    """By how much a document's tokens are moved around."""
    group: Int[np.ndarray, " units"]
    """Documents that are not independent have one; it is what is counted below."""


class Support(NamedTuple):
    """What a pair of latent and token needs to be tested."""

    min_fires: int
    min_units: int
    longest: int
    """Most firings of a latent."""


class Best(NamedTuple):
    """The tokens whose lift has the highest lower end."""

    ids: Int[np.ndarray, "d_sae top"]
    scores: Float[np.ndarray, "d_sae top"]
    numbers: Float[np.ndarray, "d_sae top 5"]
    """Firings, documents, share of the latent's firings, its spread and z."""


class _Found(NamedTuple):
    """Room for the tokens of one latent."""

    at: Int[np.ndarray, " longest"]
    bound: Int[np.ndarray, " longest_plus_1"]
    now: Int[np.ndarray, " longest"]
    inside: Float[np.ndarray, " tokens"]
    seen: Int[np.ndarray, " tokens"]
    sums: Float[np.ndarray, "tokens 4"]


@compiled
def _note(z, p, chances):
    z = abs(z)
    chances.largest[p] = max(chances.largest[p], z)
    chances.counts[int(min(z * BINS_PER_Z, Z_BINS - 1))] += 1


@compiled
def _none_yet(n_null):
    return Chances(np.zeros(n_null), np.zeros(Z_BINS, np.int64))


@compiled
def inside(fires, levels, min_units, sums, piece):
    """Levels that vary inside a problem, each against the rest of the same problem."""
    starts, vectors, unit, n_hooks = fires.indptr, fires.vector, fires.unit, fires.n_hooks
    level, excess, variance = levels.level, sums.excess, sums.variance
    n_levels, n_null = levels.exposure.shape[1], levels.shift.shape[1]
    chances = _none_yet(n_null)
    here, moved = np.zeros(n_levels, np.int64), np.zeros((n_levels, n_null), np.int32)
    for j in range(piece.lo, piece.hi):
        i, stop = starts[j], starts[j + 1]
        while i < stop:
            u, here[:], n = unit[vectors[i] // n_hooks], 0, 0
            while i < stop and unit[vectors[i] // n_hooks] == u:
                here[level[vectors[i]]] += 1
                n, i = n + 1, i + 1
            _add_unit(j, here, n, levels.exposure[u], sums)
        most, varies = 0, False
        for v in range(n_levels):
            most, varies = max(most, sums.n_units[v, j]), varies or variance[v, j] > 0
        if most < min_units or not varies or not levels.supported[j]:
            continue
        moved[:] = 0
        _move(fires, j, levels, moved)
        for v in range(n_levels):
            if variance[v, j] > 0:
                expected, spread = (
                    sums.n_fires[v, j] - excess[v, j],
                    np.sqrt(variance[v, j] * levels.effect[v, j]),
                )
                for p in range(n_null):
                    _note((moved[v, p] - expected) / spread, p, chances)
    return chances


@compiled
def _add_unit(j, here, n, exposure, sums):
    """Add a problem with `n` firings, of which `here` at each level."""
    size = 0
    for v in range(len(here)):
        size += exposure[v]
    for v in range(len(here)):
        own = exposure[v]
        sums.n_fires[v, j] += here[v]
        sums.n_units[v, j] += here[v] > 0
        if 0 < own < size:
            a, b = here[v] / own, (n - here[v]) / (size - own)
            sums.rate_in[v, j] += a
            sums.rate_out[v, j] += b
            sums.square[v, j] += (a - b) ** 2
        share = own / size
        sums.excess[v, j] += here[v] - n * share
        if size > 1:
            sums.variance[v, j] += n * share * (1 - share) * (size - n) / (size - 1)


@compiled
def _move(fires, j, levels, moved):
    """Add to `moved [levels, P]` where the firings fall when each problem's levels are shifted."""
    vectors, unit, first, n_hooks = fires.vector, fires.unit, fires.first, fires.n_hooks
    level, shift, over_hooks = levels.level, levels.shift, levels.over_hooks
    n_null = shift.shape[1]
    for i in range(fires.indptr[j], fires.indptr[j + 1]):
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


@compiled
def count_levels(shuffled, n_levels):
    """`[n_levels, permutations]`: problems of each class after each permutation; class -1 is left out."""
    n_units, n_null = shuffled.shape
    found = np.zeros((n_levels, n_null), np.int64)
    for u in range(n_units):
        for p in range(n_null):
            if shuffled[u, p] >= 0:
                found[shuffled[u, p], p] += 1
    return found


@compiled
def count_groups(fires, group, found, piece):
    """`found[j]`: groups of problems in which latent j fires; problems of group -1 are left out."""
    starts, vectors, unit, n_hooks = fires.indptr, fires.vector, fires.unit, fires.n_hooks
    last = np.full(len(group), -1, np.int64)
    for j in range(piece.lo, piece.hi):
        for i in range(starts[j], starts[j + 1]):
            g = group[unit[vectors[i] // n_hooks]]
            if g >= 0 and last[g] != j:
                last[g] = j
                found[j] += 1


@compiled
def shares(fires, j, weight, units, share):
    """The problems in which a latent fires and the share of their vectors on which it does; how many."""
    vectors, unit, n_hooks, n = fires.vector, fires.unit, fires.n_hooks, 0
    for i in range(fires.indptr[j], fires.indptr[j + 1]):
        u = unit[vectors[i] // n_hooks]
        if n == 0 or units[n - 1] != u:
            units[n], share[n] = u, np.float32(0)
            n += 1
        share[n - 1] += weight[u]
    return n


@compiled
def labels(fires, units, classes, sums, piece):
    """Labels of whole problems: sums and squares over each class of the share of vectors that fire."""
    weight, label, sizes, shuffled = units.weight, classes.label, classes.sizes, classes.shuffled
    n_levels, n_null = len(sizes), shuffled.shape[1]
    chances = _none_yet(n_null)
    who, share = np.empty(units.longest, np.int64), np.empty(units.longest, np.float32)
    by_chance = np.zeros((n_levels, n_null), np.float32)
    for j in range(piece.lo, piece.hi):
        n = shares(fires, j, weight, who, share)
        for i in range(n):
            v = label[who[i]]
            if v >= 0:
                x = np.float64(share[i])
                sums.n_fires[v, j] += int(np.rint(x / weight[who[i]]))
                sums.n_units[v, j] += 1
                sums.total[v, j] += x
                sums.square[v, j] += x * x
        if not units.supported[j]:
            continue
        by_chance[:] = 0
        for i in range(n):
            row, x = shuffled[who[i]], share[i]
            if n_levels > FEW_LEVELS:
                for p in range(n_null):
                    if row[p] >= 0:
                        by_chance[row[p], p] += x
                continue
            for v in range(n_levels):
                own = by_chance[v]
                for p in range(n_null):
                    own[p] += x if row[p] == v else np.float32(0)
        _note_labels(j, classes, units.effect[j], sums, by_chance, chances)
    return chances


@compiled
def _note_labels(j, classes, effect, sums, by_chance, chances):
    whole, squares, n, drawn = 0.0, 0.0, 0, classes.drawn
    for v in range(len(classes.sizes)):
        whole, squares, n = whole + sums.total[v, j], squares + sums.square[v, j], n + classes.sizes[v]
    variance = effect * (squares / n - (whole / n) ** 2)
    for v in range(len(classes.sizes)):
        for p in range(by_chance.shape[1]):
            own, rest = drawn[v, p], n - drawn[v, p]
            if variance > 1e-24 and own > 1 and rest > 1:
                scale = np.sqrt(variance * (1 / own + 1 / rest))
                _note((by_chance[v, p] / own - (whole - by_chance[v, p]) / rest) / scale, p, chances)


@compiled
def correlations(fires, units, numbers, sums, piece):
    """A number of whole problems times the share of vectors that fire."""
    weight, score, shuffled, n = units.weight, numbers.score, numbers.shuffled, numbers.n
    total, square, product = sums.total, sums.square, sums.product
    n_null = shuffled.shape[1]
    chances = _none_yet(n_null)
    who, share = np.empty(units.longest, np.int64), np.empty(units.longest, np.float32)
    by_chance = np.zeros(n_null, np.float32)
    for j in range(piece.lo, piece.hi):
        m = shares(fires, j, weight, who, share)
        by_chance[:] = 0
        for i in range(m):
            u, x = who[i], np.float64(share[i])
            if score[u] == score[u]:
                sums.n_fires[j] += int(np.rint(x / weight[u]))
                sums.n_units[j] += 1
                total[j] += x
                square[j] += x * x
                product[j] += x * score[u]
        variance = square[j] / n - (total[j] / n) ** 2
        if not (units.supported[j] and variance > 1e-24):
            continue
        for i in range(m):
            row, s = shuffled[who[i]], share[i]
            for p in range(n_null):
                by_chance[p] += s * row[p]
        for p in range(n_null):
            _note(by_chance[p] / np.sqrt(n * variance * units.effect[j]), p, chances)
    return chances


@compiled
def words(fires, units, texts, sums, totals, piece):
    """Words that a problem's text has or not: as `labels`, each word against all texts without it."""
    weight, has, drawn, shuffled = units.weight, texts.has, texts.drawn, texts.shuffled
    n_fires, n_units, total, square = sums
    whole, squares = totals
    n_null, (n, n_words) = shuffled.shape[1], has.shape
    chances = _none_yet(n_null)
    who, share = np.empty(units.longest, np.int64), np.empty(units.longest, np.float32)
    by_chance = np.zeros(n_words, np.float32)
    for j in range(piece.lo, piece.hi):
        m = shares(fires, j, weight, who, share)
        for i in range(m):
            row, x = has[who[i]], np.float64(share[i])
            count = int(np.rint(x / weight[who[i]]))
            whole[j] += x
            squares[j] += x * x
            for w in range(n_words):
                if row[w]:
                    n_fires[j, w] += count
                    n_units[j, w] += 1
                    total[j, w] += x
                    square[j, w] += x * x
        variance = squares[j] / n - (whole[j] / n) ** 2
        if not (units.supported[j] and variance > 1e-24):
            continue
        variance *= units.effect[j]
        for p in range(n_null):
            by_chance[:] = 0
            for i in range(m):
                row, x = has[shuffled[who[i], p]], share[i]
                for w in range(n_words):
                    by_chance[w] += x * np.float32(row[w])
            for w in range(n_words):
                own, rest = drawn[p, w], n - drawn[p, w]
                if own > 0 and rest > 0:
                    gap = by_chance[w] / own - (whole[j] - by_chance[w]) / rest
                    _note(gap / np.sqrt(variance * (1 / own + 1 / rest)), p, chances)
    return chances


@compiled
def tokens(fires, texts, support, best, piece):
    """Tokens on which a latent fires more often than on others, documents as the unit.

    Also returns how many |z| of all pairs with support fall into each bin.
    """
    n_null, base, longest = texts.shift.shape[1], texts.base, support.longest
    chances, mine = _none_yet(n_null), _none_yet(1)
    sums, seen = np.zeros((len(base), 4)), np.empty(len(base), np.int64)
    at, now, bound = np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest + 1, np.int64)
    found = _Found(at, bound, now, np.zeros(len(base)), seen, sums)
    for j in range(piece.lo, piece.hi):
        n_fires = fires.indptr[j + 1] - fires.indptr[j]
        if n_fires < support.min_fires:
            continue
        n_own, squares = _stretches(fires, j, texts.group, at, bound)
        for p in range(-1, n_null):
            n = _token_sums(fires, texts, p, n_own, found)
            for i in range(n):
                t = seen[i]
                if sums[t, 0] >= support.min_fires and sums[t, 1] >= support.min_units:
                    share = sums[t, 0] / n_fires
                    spread = sums[t, 2] - 2 * share * sums[t, 3] + share * share * squares
                    spread = np.sqrt(max(spread, 0.0)) / n_fires
                    gap = share - base[t]
                    z = gap / spread if spread > 0 else (np.inf if gap > 1e-12 else 0.0)
                    if p >= 0:
                        _note(z, p, chances)
                    else:
                        _note(z, 0, mine)
                        low = max(share - Z95 * spread, 0.0) / base[t]
                        _list(best, j, t, low, (sums[t, 0], sums[t, 1], share, spread, z))
                sums[t, 0], sums[t, 1], sums[t, 2], sums[t, 3] = 0, 0, 0, 0
    return chances.largest, chances.counts, mine.counts


@compiled
def _stretches(fires, j, group, at, bound):
    """Places of a latent's firings, group after group, and where each group begins among them; how many, and
    the sum of their squared firings."""
    vectors, unit, n_hooks, start = fires.vector, fires.unit, fires.n_hooks, fires.indptr[j]
    n, squares, n_fires = 0, 0.0, fires.indptr[j + 1] - start
    ordered = True
    for i in range(n_fires):
        at[i] = vectors[start + i] // n_hooks
        ordered &= i == 0 or group[unit[at[i]]] >= group[unit[at[i - 1]]]
    if not ordered:
        at[:n_fires] = at[:n_fires][np.argsort(group[unit[at[:n_fires]]], kind="mergesort")]
    for i in range(n_fires):
        if i == 0 or group[unit[at[i]]] != group[unit[at[i - 1]]]:
            bound[n] = i
            n += 1
    bound[n] = n_fires
    for g in range(n):
        squares += np.float64(bound[g + 1] - bound[g]) ** 2
    return n, squares


@compiled
def _token_sums(fires, texts, p, n_own, found):
    """Of each token that a latent fires on: firings, groups, squares, products with all of a group."""
    unit, first, token, shift = fires.unit, fires.first, texts.token, texts.shift
    at, bound, now, inside, seen, sums = found
    n = 0
    for g in range(n_own):
        own = np.float64(bound[g + 1] - bound[g])
        for i in range(bound[g], bound[g + 1]):
            u = unit[at[i]]
            base, size, moved = first[u], first[u + 1] - first[u], 0 if p < 0 else shift[u, p]
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
def _list(best, j, new, score, row):
    """Add a token and its numbers to the list of a latent's best, if it is among them."""
    ids, numbers = best.ids[j], best.numbers[j]
    at = insert(ids, best.scores[j], new, score)
    for p in range(len(ids) - 1, at, -1):
        numbers[p] = numbers[p - 1]
    if at < len(ids):
        for c in range(len(row)):
            numbers[at, c] = row[c]
