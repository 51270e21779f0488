"""Which labels, tokens, hooks, thoughts and positions a latent prefers, with the problem as the unit.

Rows of one problem (or document) are not independent: counting them one by one makes chance look
like a finding. Everything here is an accumulator fed with whole problems; an interval or a null
comes from the spread over problems.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

Z95 = float(stats.norm.ppf(0.975))

DEFINITIONS = {
    "rate_in": "mean over problems of the share of the problem's vectors at this level on which it fires",
    "rate_out": "the same over the other levels",
    "rate difference": "rate_in - rate_out; 95% interval from the spread over problems",
    "lift": "P(fires | token) / P(fires); 95% interval by linearisation over documents",
    "q_value": "Benjamini-Hochberg over all tested (latent, level) pairs of the factor",
    "p_max": "share of permutations whose largest |z| over all latents and levels reaches this |z|",
}


@dataclass(frozen=True, eq=False)
class Associations:
    """One entry per tested (latent, level) of a factor; definitions in `DEFINITIONS`."""

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

    def __len__(self) -> int:
        return len(self.latent)

    def take(self, index: Shaped[np.ndarray, " m"]) -> Associations:
        """The entries at `index` (positions or a mask)."""
        return Associations(**{name: value[index] for name, value in vars(self).items()})


class LevelPreference:
    """Levels that vary inside a problem (hook, thought, position): each against the rest of the same problem.

    The statistic of a problem is its firing rate at the level minus its firing rate elsewhere. The
    null flips the sign of whole problems, the same flips for all latents, and keeps the largest |z|
    (Westfall & Young 1993, single-step maxT).

    Args:
        d_sae: Number of latents.
        n_levels: Number of levels.
        n_permutations: Sign flips drawn.
        seed: Seed of the flips; they depend on the order of problems, not on how they are batched.
    """

    def __init__(self, d_sae: int, n_levels: int, *, n_permutations: int = 200, seed: int = 0) -> None:
        self.d_sae, self.n_levels, self.n_permutations = d_sae, n_levels, n_permutations
        self.rng = np.random.default_rng(seed)
        shape = (n_levels, d_sae)
        self.n = np.zeros(n_levels, np.int64)
        self.rate_in, self.rate_out = np.zeros(shape), np.zeros(shape)
        self.square = np.zeros(shape)
        self.flipped = np.zeros((n_levels, n_permutations, d_sae), np.float32)
        self.fires, self.units = np.zeros(shape, np.int64), np.zeros(shape, np.int64)

    def update(
        self,
        unit: Int[np.ndarray, " fires"],
        latent: Int[np.ndarray, " fires"],
        level: Int[np.ndarray, " fires"],
        exposure: Int[np.ndarray, "units n_levels"],
    ) -> None:
        """Add whole problems: who fired where, and how many vectors each problem has at each level."""
        n_units = len(exposure)
        signs = (self.rng.random((n_units, self.n_permutations)) < 0.5) * np.float32(2) - np.float32(1)
        total = _counts(unit, latent, n_units, self.d_sae)
        vectors = exposure.sum(1)
        for v in range(self.n_levels):
            here = level == v
            fires = _counts(unit[here], latent[here], n_units, self.d_sae)
            both = (exposure[:, v] > 0) & (vectors > exposure[:, v])
            rate_in = fires[both] / exposure[both, v, None].astype(np.float32)
            rate_out = (total - fires)[both] / (vectors - exposure[:, v])[both, None].astype(np.float32)
            gap = rate_in - rate_out
            self.n[v] += both.sum()
            self.rate_in[v] += rate_in.sum(0, dtype=np.float64)
            self.rate_out[v] += rate_out.sum(0, dtype=np.float64)
            self.square[v] += np.square(gap, dtype=np.float64).sum(0)
            self.flipped[v] += signs[both].T @ gap
            self.fires[v] += fires.sum(0, dtype=np.float64).astype(np.int64)
            self.units[v] += (fires > 0).sum(0)

    def compute(self, min_units: int = 10) -> Associations:
        """Entries of latents that fire in at least `min_units` problems at some level."""
        n = np.maximum(self.n, 1)[:, None]
        estimate = (self.rate_in - self.rate_out) / n
        spread = np.sqrt(np.maximum(self.square / n - estimate**2, 0.0) / n)
        norm = np.sqrt(self.square)
        z = _ratio(estimate * n, norm)
        tested = (self.units.max(0) >= min_units) & (norm > 0)
        null = np.zeros(self.n_permutations)
        for v in range(self.n_levels):
            keep = tested[v]
            if keep.any():
                null = np.maximum(null, np.abs(self.flipped[v][:, keep] / norm[v, keep]).max(1))
        return _collect(
            tested, z, null, self.fires, self.units, self.rate_in / n, self.rate_out / n, estimate, spread
        )


class LabelPreference:
    """Labels of whole problems (operation, correctness): each class against all other classes.

    The statistic of a problem is the share of its vectors on which the latent fires. The null
    shuffles the labels over problems, the same shuffle for all latents, and keeps the largest |z|.

    Args:
        d_sae: Number of latents.
        labels: Class code of every problem in the order in which they will come; -1 is left out.
        n_levels: Number of classes.
        n_permutations: Shuffles drawn.
        seed: Seed of the shuffles.
    """

    def __init__(
        self,
        d_sae: int,
        labels: Int[np.ndarray, " n"],
        n_levels: int,
        *,
        n_permutations: int = 200,
        seed: int = 0,
    ) -> None:
        self.d_sae, self.labels, self.n_levels = d_sae, labels, n_levels
        rng = np.random.default_rng(seed)
        known = np.flatnonzero(labels >= 0)
        self.shuffled = np.full((n_permutations, len(labels)), -1, np.int16)
        for i in range(n_permutations):
            self.shuffled[i, known] = labels[rng.permutation(known)]
        self.done = 0
        shape = (n_levels, d_sae)
        self.sum, self.square = np.zeros(shape), np.zeros(shape)
        self.fires, self.units = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.null_sum = np.zeros((n_levels, n_permutations, d_sae), np.float32)

    def update(
        self,
        unit: Int[np.ndarray, " fires"],
        latent: Int[np.ndarray, " fires"],
        vectors: Int[np.ndarray, " units"],
    ) -> None:
        """Add the next `len(vectors)` problems, with the number of vectors each has."""
        n_units = len(vectors)
        window = slice(self.done, self.done + n_units)
        self.done += n_units
        fires = _counts(unit, latent, n_units, self.d_sae)
        share = fires / np.maximum(vectors, 1)[:, None].astype(np.float32)
        for v in range(self.n_levels):
            own = self.labels[window] == v
            self.sum[v] += share[own].sum(0, dtype=np.float64)
            self.square[v] += np.square(share[own], dtype=np.float64).sum(0)
            self.fires[v] += fires[own].sum(0, dtype=np.float64).astype(np.int64)
            self.units[v] += (fires[own] > 0).sum(0)
            self.null_sum[v] += (self.shuffled[:, window] == v).astype(np.float32) @ share

    def compute(self, min_units: int = 10) -> Associations:
        """Entries of latents that fire in at least `min_units` problems."""
        n = np.bincount(self.labels[self.labels >= 0], minlength=self.n_levels)[:, None]
        rest = n.sum() - n
        total = self.sum.sum(0)
        rate_in, rate_out = _ratio(self.sum, n), _ratio(total - self.sum, rest)
        variance = np.maximum(self.square.sum(0) / n.sum() - (total / n.sum()) ** 2, 0.0)
        scale = np.sqrt(variance * (_ratio(1.0, n) + _ratio(1.0, rest)))
        tested = (self.units.sum(0) >= min_units) & (scale > 1e-12) & (n > 1) & (rest > 1)
        null = np.zeros(len(self.shuffled))
        for v in range(self.n_levels):
            if (keep := tested[v]).any():
                own = self.null_sum[v][:, keep].astype(np.float64)
                gap = own / n[v] - (total[keep] - own) / rest[v]
                null = np.maximum(null, np.abs(gap / scale[v, keep]).max(1))
        spread = np.sqrt(
            _variance(self.square, rate_in, n) + _variance(self.square.sum(0) - self.square, rate_out, rest)
        )
        z = _ratio(rate_in - rate_out, scale)
        return _collect(
            tested, z, null, self.fires, self.units, rate_in, rate_out, rate_in - rate_out, spread
        )


class TokenPreference:
    """Tokens on which a latent fires more often than its density says, documents as the unit.

    Keeps one entry per (latent, token) pair that was ever seen; memory grows with the pairs, not
    with the rows. The interval of the lift linearises the ratio "fires on this token / fires" over
    documents.

    Args:
        d_sae: Number of latents.
        n_tokens: Size of the vocabulary.
    """

    fields = ("n_fires", "n_units", "square", "cross")

    def __init__(self, d_sae: int, n_tokens: int) -> None:
        self.d_sae, self.n_tokens = d_sae, n_tokens
        self.token_vectors = np.zeros(n_tokens, np.int64)
        self.n, self.sum, self.sum_square = 0, np.zeros(d_sae), np.zeros(d_sae)
        self.pairs: list[dict[str, np.ndarray]] = []

    def update(
        self,
        unit: Int[np.ndarray, " fires"],
        latent: Int[np.ndarray, " fires"],
        token: Int[np.ndarray, " fires"],
        tokens: Int[np.ndarray, " vectors"],
        n_units: int,
    ) -> None:
        """Add whole documents: who fired on which token, and the tokens of all their vectors."""
        self.token_vectors += np.bincount(tokens, minlength=self.n_tokens)
        self.n += len(tokens)
        own = _counts(unit, latent, n_units, self.d_sae).astype(np.float64)
        self.sum += own.sum(0)
        self.sum_square += (own**2).sum(0)
        pair_unit = (latent.astype(np.int64) * self.n_tokens + token) * n_units + unit
        pair_unit, count = np.unique(pair_unit, return_counts=True)
        pair, at = pair_unit // n_units, pair_unit % n_units
        one = {
            "pair": pair, "n_fires": count, "n_units": np.ones_like(count), "square": count**2,
            "cross": (count * own[at, pair // self.n_tokens]).astype(np.int64),
        }  # fmt: skip
        self.pairs.append(_merge([one]))
        if sum(len(p["pair"]) for p in self.pairs) > 2 * len(self.pairs[0]["pair"]) + 4_000_000:
            self.pairs = [_merge(self.pairs)]

    def compute(self, min_fires: int = 10, min_units: int = 3, top: int = 10) -> Associations:
        """The `top` tokens of each latent by the lower end of their lift, among those with support."""
        if not self.pairs:
            return _empty()
        table = _merge(self.pairs)
        keep = (table["n_fires"] >= min_fires) & (table["n_units"] >= min_units)
        table = {name: value[keep] for name, value in table.items()}
        latent, token = table["pair"] // self.n_tokens, table["pair"] % self.n_tokens
        share = table["n_fires"] / self.sum[latent]
        variance = table["square"] - 2 * share * table["cross"] + share**2 * self.sum_square[latent]
        spread = np.sqrt(np.maximum(variance, 0.0)) / self.sum[latent]
        base = self.token_vectors[token] / self.n
        z = _ratio(share - base, spread, when_zero=np.inf)
        found = Associations(
            latent, token, table["n_fires"], table["n_units"],
            table["n_fires"] / self.token_vectors[token],
            _ratio(self.sum[latent] - table["n_fires"], self.n - self.token_vectors[token]),
            share / base, np.maximum(share - Z95 * spread, 0.0) / base, (share + Z95 * spread) / base,
            z, _q_values(z), np.full(len(z), np.nan),
        )  # fmt: skip
        order = np.lexsort((found.level, -found.low, found.latent))
        return found.take(order[rank_within(found.latent[order]) < top])


def rank_within(sorted_group: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Position of each entry in its run of equal values: `[3, 3, 5] -> [0, 1, 0]`."""
    if not len(sorted_group):
        return np.zeros(0, np.int64)
    start = np.flatnonzero(np.r_[True, sorted_group[1:] != sorted_group[:-1]])
    lengths = np.diff(np.r_[start, len(sorted_group)])
    return np.arange(len(sorted_group)) - np.repeat(start, lengths)


def _counts(
    unit: np.ndarray, latent: np.ndarray, n_units: int, d_sae: int
) -> Float[np.ndarray, "units d_sae"]:
    flat = np.bincount(unit.astype(np.int64) * d_sae + latent, minlength=n_units * d_sae)
    return flat.reshape(n_units, d_sae).astype(np.float32)


def _merge(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Sum the columns of equal pairs; the result is sorted by pair."""
    pair = np.concatenate([p["pair"] for p in parts])
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    start = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]]) if len(pair) else np.zeros(0, np.int64)
    merged = {"pair": pair[start]}
    for name in TokenPreference.fields:
        column = np.concatenate([p[name] for p in parts])[order]
        merged[name] = np.add.reduceat(column, start) if len(start) else column
    return merged


def _collect(
    tested: np.ndarray,
    z: np.ndarray,
    null: np.ndarray,
    fires: np.ndarray,
    units: np.ndarray,
    rate_in: np.ndarray,
    rate_out: np.ndarray,
    estimate: np.ndarray,
    spread: np.ndarray,
) -> Associations:
    """Entries of the tested [level, latent] pairs; `null` holds the largest |z| of each permutation."""
    level, latent = np.nonzero(tested)
    pick = level, latent
    own = np.abs(z[pick])
    at_least = len(null) - np.searchsorted(np.sort(null), own * (1 - 1e-6))
    return Associations(
        latent, level, fires[pick], units[pick], rate_in[pick], rate_out[pick], estimate[pick],
        estimate[pick] - Z95 * spread[pick], estimate[pick] + Z95 * spread[pick],
        z[pick], _q_values(z[pick]), (1 + at_least) / (1 + len(null)),
    )  # fmt: skip


def _empty() -> Associations:
    codes, values = np.zeros(0, np.int64), np.zeros(0)
    return Associations(codes, codes, codes, codes, *[values] * 8)


def _q_values(z: np.ndarray) -> np.ndarray:
    return stats.false_discovery_control(2 * stats.norm.sf(np.abs(z))) if len(z) else z


def _variance(square: np.ndarray, mean: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.maximum(_ratio(square, n) - mean**2, 0.0) / np.maximum(n - 1, 1)


def _ratio(a: np.ndarray | float, b: np.ndarray | float, when_zero: float = 0.0) -> np.ndarray:
    a, b = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float))
    return np.divide(a, b, out=np.full(a.shape, when_zero), where=b > 0)
