"""Which labels, words, tokens, hooks, thoughts and positions a latent prefers, with the problem as the unit.

Rows of one problem (or document) are not independent, nor are problems of one group (copies, paraphrases):
counting them one by one makes chance look like a finding. Intervals come from the spread over problems, times
what groups do to it, and what chance does from permutations that keep the fires of each problem and the
problems of each group together; the same permutations for all latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import scipy
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int, Shaped

from thoughtlens.latents.codes import null_loops
from thoughtlens.latents.codes.chance import Chance, Null, binned, design_effect, donors, groups, shifts
from thoughtlens.latents.codes.fires import Fires
from thoughtlens.latents.codes.null_loops import (
    Best,
    ClassSums,
    Labels,
    Levels,
    LevelSums,
    Numbers,
    NumberSums,
    Support,
    Texts,
    Totals,
    Units,
    Words,
)
from thoughtlens.numerics import share

Z95 = null_loops.Z95
WORD_PAIRS = 1_000_000
"""Pairs of latent and word that are held at once."""
PERMUTATIONS = 64
"""Permutations of a number that are put into standard units at once."""
EFFECT_FIRES = 1 << 24
"""Firings whose problems are counted at once."""

DEFINITIONS = {
    "rate_in": "mean over problems of the share of the problem's vectors at this level on which it fires",
    "rate_out": "the same over the other levels",
    "rate difference": "rate_in - rate_out; 95% interval from the spread over problems",
    "lift": "P(fires | token) / P(fires); 95% interval by linearisation over documents",
    "correlation": "Pearson correlation over problems of the share of vectors on which it fires with the "
    "rank of the number, and with its value; 95% interval by Fisher's transformation",
    "groups": "problems that share a group_id, as copies and paraphrases do: they change places together in "
    "permutations, they count once where a number of problems is asked for (min_units), and intervals and z "
    "take the variance between groups, which is never taken to be below that of independent problems",
    "z": "inside problems: fires at the level less those expected from each problem's own rate, over the "
    "standard deviation of that if levels are dealt out at random inside problems (Mantel-Haenszel); labels "
    "and words: rate difference over its standard error if labels are dealt out at random; correlation: "
    "r sqrt(n); tokens: (P(token | fires) - P(token)) / its standard error",
    "permutations": "inside problems, and tokens: levels moved around inside every problem by a random "
    "shift, one for each group; labels, words, numbers: dealt out anew over groups",
    "q_value": "false-discovery rate of calling all pairs with at least this |z| found: their number in the "
    "mean permutation over their number in the data, all tested (latent, level) pairs of the factor together",
    "p_max": "share of permutations whose largest |z| over all latents and levels reaches this |z|",
}


@dataclass(frozen=True, eq=False)
class Associations:
    """One entry per listed (latent, level) of a factor; definitions in `DEFINITIONS`."""

    latent: Int[np.ndarray, " n"]
    level: Int[np.ndarray, " n"]
    n_fires: Int[np.ndarray, " n"]
    n_units: Int[np.ndarray, " n"]
    rate_in: Float[np.ndarray, " n"]
    rate_out: Float[np.ndarray, " n"]
    estimate: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    z: Float[np.ndarray, " n"]
    q_value: Float[np.ndarray, " n"]
    p_max: Float[np.ndarray, " n"]
    n_tested: int
    """Pairs that were tested; more than are listed where only the strongest of each latent are."""

    def __len__(self) -> int:
        return len(self.latent)

    def take(self, index: Shaped[np.ndarray, " m"]) -> Associations:
        """The entries at `index` (positions or a mask)."""
        columns = {name: v[index] for name, v in vars(self).items() if isinstance(v, np.ndarray)}
        return Associations(**columns, n_tested=self.n_tested)


def level_preference(
    fires: Fires, level: Int[np.ndarray, " vectors"], n_levels: int, chance: Chance, *, of_hooks: bool = False
) -> Associations:
    """Levels that vary inside a problem (thought, position, hook): each against the rest of the same problem.

    Args:
        fires: Of every latent.
        level: Level of every vector.
        n_levels: Number of levels.
        chance: Permutations and support floor.
        of_hooks: The levels are hooks, so that chance moves hooks and not places around.
    """
    unit = np.repeat(fires.unit.astype(np.int64), fires.n_hooks)
    exposure = np.bincount(unit * n_levels + level, minlength=fires.n_units * n_levels)
    exposure = exposure.reshape(fires.n_units, n_levels)
    size = np.full(fires.n_units, fires.n_hooks) if of_hooks else np.diff(fires.first)
    shape = (n_levels, fires.d_sae)
    sums = LevelSums(*np.zeros((2, *shape), np.int64), *np.zeros((5, *shape)))
    supported = groups_of(fires, chance) >= chance.min_units
    effect = np.stack([_effect_of_level(fires, level == v, exposure, v, chance) for v in range(n_levels)])
    levels = Levels(level.astype(np.int32), exposure, shifts(size, chance), of_hooks, supported, effect)
    null, _ = _run(null_loops.inside, fires, levels, chance.min_units, sums)
    total = exposure.sum(1, keepdims=True)
    n = np.maximum(((exposure > 0) & (exposure < total)).sum(0), 1)[:, None]
    rate_in, rate_out = sums.rate_in / n, sums.rate_out / n
    estimate = (sums.rate_in - sums.rate_out) / n
    return _collect(
        supported & (sums.n_units.max(0) >= chance.min_units) & (sums.variance > 0),
        null,
        n_fires=sums.n_fires,
        n_units=sums.n_units,
        rate_in=rate_in,
        rate_out=rate_out,
        estimate=estimate,
        spread=np.sqrt(effect * np.maximum(sums.square / n - estimate**2, 0.0) / n),
        z=_ratio(sums.excess, np.sqrt(effect * sums.variance)),
    )


def label_preference(
    fires: Fires, label: Int[np.ndarray, " units"], n_levels: int, chance: Chance
) -> Associations:
    """Labels of whole problems (operation, correctness): each class against all other classes.

    The statistic of a problem is the share of its vectors on which the latent fires.

    Args:
        fires: Of every latent.
        label: Class of every problem; -1 is left out.
        n_levels: Number of classes.
        chance: Permutations and support floor.
    """
    known = np.flatnonzero(label >= 0)
    sizes = np.bincount(label[known], minlength=n_levels)
    shuffled = np.full((len(label), chance.n_permutations), -1, np.int16)
    shuffled[known] = label.astype(np.int16)[donors(known, chance)]
    drawn = null_loops.count_levels(shuffled, n_levels)
    sums, units = _class_sums((n_levels, fires.d_sae)), _units(fires, known, chance)
    classes = Labels(label.astype(np.int64), sizes, shuffled, drawn)
    null, _ = _run(null_loops.labels, fires, units, classes, sums)
    totals = Totals(sums.total.sum(0), sums.square.sum(0))
    return _classes(sums, totals, units, sizes=sizes, n=len(known), null=null)


def word_preference(
    fires: Fires,
    indptr: Int[np.ndarray, " units_plus_1"],
    word: Int[np.ndarray, " n"],
    n_words: int,
    chance: Chance,
    *,
    top: int,
) -> Associations:
    """Words that are in a problem's text or not: the problems with a word against those without.

    Args:
        fires: Of every latent.
        indptr: Where the words of each problem begin in `word`.
        word: The different words of every problem, problem by problem.
        n_words: Number of words; each must be in some texts and missing in some.
        chance: Permutations and support floor.
        top: Words listed for each latent, by |z|; all are tested.
    """
    sizes, has = np.bincount(word, minlength=n_words), np.zeros((fires.n_units, n_words), np.uint8)
    has[np.repeat(np.arange(fires.n_units), np.diff(indptr)), word] = 1
    shuffled = donors(np.arange(fires.n_units), chance)
    words = Words(has, sizes, shuffled, np.stack([has[donor].sum(0, dtype=np.int64) for donor in shuffled.T]))
    block = max(1, WORD_PAIRS // n_words)
    parts, nulls, observed = [], [], np.zeros(null_loops.Z_BINS, np.int64)
    for low in range(0, fires.d_sae, block):
        null, found = _words(fires.part(low, low + block), words, chance)
        observed += np.bincount(binned(found.z), minlength=len(observed))
        order = np.lexsort((found.level, -np.abs(found.z), found.latent))
        found = found.take(order[rank_within(found.latent[order]) < top])
        nulls.append(null)
        parts.append(replace(found, latent=found.latent + low))
    null = Null(np.max([n.largest for n in nulls], axis=0), np.sum([n.counts for n in nulls], axis=0))
    names = [name for name, value in vars(parts[0]).items() if isinstance(value, np.ndarray)]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    columns |= {"q_value": null.q_values(columns["z"], observed), "p_max": null.p_max(columns["z"])}
    return Associations(**columns, n_tested=int(observed.sum()))


def _words(fires: Fires, words: Words, chance: Chance) -> tuple[Null, Associations]:
    """All pairs of some latents and all words, and the null of these latents alone."""
    sums, totals = _class_sums((fires.d_sae, len(words.sizes))), Totals(*np.zeros((2, fires.d_sae)))
    units = _units(fires, np.arange(fires.n_units), chance)
    null, _ = _run(null_loops.words, fires, units, words, sums, totals)
    by_word = ClassSums(*(column.T for column in sums))
    return null, _classes(by_word, totals, units, sizes=words.sizes, n=fires.n_units, null=null)


def correlation(fires: Fires, number: Float[np.ndarray, " units"], chance: Chance) -> Associations:
    """A number that every problem has (a value, a length); NaN is left out. Level 0: by rank, 1: by value."""
    known = np.flatnonzero(~np.isnan(number))
    units = _units(fires, known, chance)
    ways = [
        _correlation(fires, score, known, units, chance)
        for score in (scipy.stats.rankdata(number[known]), number[known])
    ]
    null = Null(
        np.max([one.largest for _, one in ways], axis=0), np.sum([one.counts for _, one in ways], axis=0)
    )
    found = [np.concatenate(column) for column in zip(*(of for of, _ in ways), strict=True)]
    latent, n_fires, n_units, z = found
    level = np.repeat(np.arange(len(ways)), [len(z) for (*_, z), _ in ways])
    n = len(known) / units.effect[latent]
    r = np.clip(z / np.sqrt(n), -1 + 1e-12, 1 - 1e-12)
    half, nothing = Z95 / np.sqrt(np.maximum(n - 3, 1)), np.full(len(latent), np.nan)
    return Associations(
        latent, level, n_fires, n_units, nothing, nothing, r, np.tanh(np.arctanh(r) - half),
        np.tanh(np.arctanh(r) + half), z, null.q_values(z), null.p_max(z), len(latent),
    )  # fmt: skip


def _correlation(
    fires: Fires, number: np.ndarray, known: np.ndarray, units: Units, chance: Chance
) -> tuple[tuple[np.ndarray, ...], Null]:
    """Latent, firings, problems and z of those that can be tested, and the null."""
    score = np.full(fires.n_units, np.nan)
    shuffled = np.zeros((fires.n_units, chance.n_permutations), np.float32)
    score[known] = _standard(number)
    given = donors(known, chance)
    for low in range(0, chance.n_permutations, PERMUTATIONS):
        dealt = score[given[:, low : low + PERMUTATIONS]]
        shuffled[known, low : low + PERMUTATIONS] = dealt if chance.group is None else _standard(dealt)
    sums, n = NumberSums(*np.zeros((2, fires.d_sae), np.int64), *np.zeros((3, fires.d_sae))), len(known)
    null, _ = _run(null_loops.correlations, fires, units, Numbers(score, shuffled, n), sums)
    variance = (sums.square / n - (sums.total / n) ** 2) * units.effect
    latent = np.flatnonzero(units.supported & (variance > 1e-24))
    z = sums.product[latent] / np.sqrt(n * variance[latent])
    return (latent, sums.n_fires[latent], sums.n_units[latent], z), null


def token_preference(
    fires: Fires,
    token: Int[np.ndarray, " places"],
    n_tokens: int,
    chance: Chance,
    *,
    min_fires: int = 10,
    top: int = 10,
) -> Associations:
    """Tokens on which a latent fires more often than its density says, documents or their groups as the unit.

    The interval of the lift linearises the ratio "fires on this token / fires" over them.

    Args:
        fires: Of every latent.
        token: Token of every place.
        n_tokens: Size of the vocabulary.
        chance: Permutations, and the groups of documents in which a latent must fire on the token.
        min_fires: Fires of the latent on the token below which a pair is not tested.
        top: Tokens listed for each latent, by the lower end of their lift; all are tested.
    """
    vectors = np.bincount(token, minlength=n_tokens) * fires.n_hooks
    base = vectors / max(fires.n_vectors, 1)
    shape = (fires.d_sae, top)
    best = Best(np.full(shape, -1, np.int64), np.zeros(shape), np.zeros((*shape, 5)))
    group = groups(chance, fires.n_units)
    texts = Texts(token.astype(np.int32), base, shifts(np.diff(fires.first), chance), group)
    support = Support(min_fires, chance.min_units, int(fires.counts.max(initial=0)))
    null, observed = _run(null_loops.tokens, fires, texts, support, best)
    latent, rank = np.nonzero(best.ids >= 0)
    level, (count, units, part, spread, z) = best.ids[latent, rank], best.numbers[latent, rank].T
    own = fires.counts[latent]
    rate_out = _ratio(own - count, fires.n_vectors - vectors[level])
    return Associations(
        latent, level, count.astype(np.int64), units.astype(np.int64), count / vectors[level], rate_out,
        part / base[level], np.maximum(part - Z95 * spread, 0.0) / base[level],
        (part + Z95 * spread) / base[level], z, null.q_values(z, observed), null.p_max(z),
        int(observed.sum()),
    )  # fmt: skip


def groups_of(
    fires: Fires, chance: Chance, known: Int[np.ndarray, " known"] | None = None
) -> Int[np.ndarray, " d_sae"]:
    """Groups of problems (of the `known` ones, or of all) in which each latent fires."""
    group, found = groups(chance, fires.n_units), np.zeros(fires.d_sae, np.int64)
    if known is not None:
        group = np.where(np.isin(np.arange(fires.n_units), known), group, -1)
    share(null_loops.count_groups, fires.d_sae, fires, group, found)
    return found


def rank_within(sorted_group: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Position of each entry in its run of equal values: `[3, 3, 5] -> [0, 1, 0]`."""
    if not len(sorted_group):
        return np.zeros(0, np.int64)
    start = np.flatnonzero(np.r_[True, sorted_group[1:] != sorted_group[:-1]])
    lengths = np.diff(np.r_[start, len(sorted_group)])
    return np.arange(len(sorted_group)) - np.repeat(start, lengths)


def _run(loop: Callable[..., tuple], fires: Fires, *arguments: tuple | int) -> tuple[Null, np.ndarray]:
    """A loop over all latents: its null, and the binned |z| of the data where it gives them."""
    parts = share(loop, fires.d_sae, fires, *arguments)
    largest, counts, *rest = zip(*parts, strict=True)
    observed = np.sum(rest[0], axis=0) if rest else np.zeros(0, np.int64)
    return Null(np.max(largest, axis=0), np.sum(counts, axis=0)), observed


def _units(fires: Fires, known: Int[np.ndarray, " known"], chance: Chance) -> Units:
    longest = max(1, min(fires.n_units, int(fires.counts.max(initial=0))))
    weight = 1.0 / fires.vectors_per_unit
    effect = _effect(fires, lambda part: sp.diags_array(weight) @ _counts(part), known, chance)
    return Units(weight, longest, groups_of(fires, chance, known) >= chance.min_units, effect)


def _effect(
    fires: Fires, values: Callable[[Fires], sp.csr_array], known: np.ndarray, chance: Chance
) -> Float[np.ndarray, " d_sae"]:
    """The design effect of what `values` makes of the firings, for some latents at a time."""
    found = np.ones(fires.d_sae)
    if chance.group is not None:
        starts = np.r_[
            np.searchsorted(fires.indptr, np.arange(0, fires.indptr[-1], EFFECT_FIRES)), fires.d_sae
        ]
        for low, high in pairwise(np.unique(np.r_[0, starts]).tolist()):
            found[low:high] = design_effect(sp.csr_array(values(fires.part(low, high))), known, chance)
    return found


def _effect_of_level(
    fires: Fires, here: Bool[np.ndarray, " vectors"], exposure: np.ndarray, v: int, chance: Chance
) -> Float[np.ndarray, " d_sae"]:
    """The design effect of a problem's rate at level v less its rate at the others."""
    own, rest = exposure[:, v], exposure.sum(1) - exposure[:, v]
    inside, outside = _ratio(1.0, own), _ratio(1.0, rest)

    def differences(part: Fires) -> sp.csr_array:
        at_level = sp.diags_array(inside + outside) @ _counts(part, here)
        return sp.csr_array(at_level - sp.diags_array(outside) @ _counts(part))

    return _effect(fires, differences, np.flatnonzero((own > 0) & (rest > 0)), chance)


def _counts(fires: Fires, kept: Bool[np.ndarray, " vectors"] | None = None) -> sp.csr_array:
    """Firings of each latent in each problem, `[units, d_sae]`; of the vectors that are kept."""
    vector = fires.vector[fires.indptr[0] : fires.indptr[-1]]
    one = np.ones(len(vector)) if kept is None else kept[vector].astype(float)
    at = fires.unit[vector // fires.n_hooks], np.repeat(np.arange(fires.d_sae), fires.counts)
    return sp.csr_array(sp.coo_array((one, at), shape=(fires.n_units, fires.d_sae)))


def _standard(number: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    return (number - number.mean(0)) / np.maximum(number.std(0), 1e-300)


def _class_sums(shape: tuple[int, int]) -> ClassSums:
    return ClassSums(*np.zeros((2, *shape), np.int64), *np.zeros((2, *shape)))


def _classes(
    sums: ClassSums, totals: Totals, units: Units, *, sizes: np.ndarray, n: int, null: Null
) -> Associations:
    """Problems of each class against all others, from sums over `[class, latent]` and over all problems."""
    sizes, (whole, squares) = sizes[:, None], totals
    rest = n - sizes
    rate_in, rate_out = _ratio(sums.total, sizes), _ratio(whole - sums.total, rest)
    variance = np.maximum(squares / max(n, 1) - (whole / max(n, 1)) ** 2, 0.0)
    scale = np.sqrt(units.effect * variance * (_ratio(1.0, sizes) + _ratio(1.0, rest)))
    of_rest = _variance(squares - sums.square, rate_out, rest)
    return _collect(
        units.supported & (variance > 1e-24) & (sizes > 1) & (rest > 1),
        null,
        n_fires=sums.n_fires,
        n_units=sums.n_units,
        rate_in=rate_in,
        rate_out=rate_out,
        estimate=rate_in - rate_out,
        spread=np.sqrt(units.effect * (_variance(sums.square, rate_in, sizes) + of_rest)),
        z=_ratio(rate_in - rate_out, scale),
    )


def _collect(
    tested: np.ndarray,
    null: Null,
    *,
    estimate: np.ndarray,
    spread: np.ndarray,
    z: np.ndarray,
    **columns: np.ndarray,
) -> Associations:
    """Entries of the tested [level, latent] pairs."""
    level, latent = pick = np.nonzero(tested)
    middle, half, z = estimate[pick], Z95 * spread[pick], z[pick]
    return Associations(
        latent=latent,
        level=level,
        **{name: column[pick] for name, column in columns.items()},
        estimate=middle,
        low=middle - half,
        high=middle + half,
        z=z,
        q_value=null.q_values(z),
        p_max=null.p_max(z),
        n_tested=len(level),
    )


def _variance(square: np.ndarray, mean: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.maximum(_ratio(square, n) - mean**2, 0.0) / np.maximum(n - 1, 1)


def _ratio(a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    a, b = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float))
    return np.divide(a, b, out=np.zeros(a.shape), where=b > 0)
