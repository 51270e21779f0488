"""Two SAEs by what their latents do on the same problems: does a latent transfer?

The best match of each latent is chosen on one half of the problems and scored on the other, so that having
looked at thousands of candidates is not paid for with a high score. Two SAEs that have learned nothing agree
too, as both read the same activations: what counts is what untrained SAEs of the same widths do not reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.latents.geometry.blocks import Matches, Nearest, assign, nearest, unit_rows
from thoughtlens.latents.geometry.records import ActivationScores
from thoughtlens.numerics import THRESHOLDS, permutation_p, shuffled_blocks, wilson

ALPHA = 0.05
CHUNK = 1 << 25
"""Numbers multiplied at once when shuffled scores are made."""


class Untrained(NamedTuple):
    """What untrained SAEs of the same kinds and widths do on the same units."""

    a: Float[Tensor, "n units"]
    b: tuple[Float[Tensor, "m units"], Float[Tensor, "m units"]]
    """Two of them, so that each says by how much the other is exceeded by chance."""


def compare(
    a: Float[Tensor, "n units"],
    b: Float[Tensor, "m units"],
    groups: Int[np.ndarray, " units"],
    untrained: Untrained,
    *,
    n_permutations: int,
    seed: int,
) -> tuple[ActivationScores, Matches]:
    """Best-match correlation on held-out units, its nulls, and MCC by correlation.

    Latents that do not vary over the fitting half are left out of both sides.

    Args:
        a: Activations of one SAE's latents on shared units.
        b: Of the other's, on the same units in the same order.
        groups: Units of one group go to the same half, and are shuffled together.
        untrained: In place of either side.
        n_permutations: Shuffles of the held-out units.
        seed: Of the halves and the shuffles.

    Returns:
        The summary, and the match of each live latent of a: `score` is held out, and `null_score` the same
        with the other side's units shuffled before the match was chosen.
    """
    rng = np.random.default_rng((seed, 67))
    order = np.argsort(groups, kind="stable")
    groups = groups[order]
    fit = _half(groups, rng)
    rows, ours = _halves(a[:, order], fit)
    columns, theirs = _halves(b[:, order], fit)
    held = _HeldOut.of(ours, theirs)
    shuffled = [
        x[:, shuffled_blocks(_numbered(groups[h]), rng)] for x, h in zip(theirs, (fit, ~fit), strict=True)
    ]
    score, null_score = held.score, _HeldOut.of(ours, shuffled).score
    p, p_max = _significance(held, _numbered(groups[~fit]), n_permutations, rng)
    new, *news = (_halves(x[:, order], fit)[1] for x in (untrained.a, *untrained.b))
    rivals = [_HeldOut.of(ours, x) for x in news]
    reached = [rival.score for rival in rivals]
    margins = _margin(_HeldOut.of(new, theirs).score, *(_HeldOut.of(new, x).score for x in news))
    between = np.r_[_margin(*reached), _margin(*reversed(reached))]
    own = _margin(score, *reached)
    p_untrained = np.max([[permutation_p(one, null) for one in own] for null in (between, margins)], axis=0)
    _, rival_p_max = _significance(rivals[0], _numbered(groups[~fit]), n_permutations, rng)
    above = p_max <= ALPHA
    transferred = above & (p_untrained <= ALPHA)
    share = wilson(int(transferred.sum()), len(transferred))
    mcc, exact = _mcc(ours, theirs)
    mcc_chance, chance_exact = _mcc(ours, shuffled)
    summary = ActivationScores(
        n=len(rows),
        n_other=len(columns),
        n_units_fit=int(fit.sum()),
        n_units_held_out=int((~fit).sum()),
        mean_score=float(score.mean()),
        mean_null_score=float(null_score.mean()),
        mean_untrained_score=float(reached[0].mean()),
        share_transferred=share.estimate,
        share_transferred_low=share.low,
        share_transferred_high=share.high,
        share_above_permuted=float(above.mean()),
        share_above_permuted_untrained=float((rival_p_max <= ALPHA).mean()),
        share_at=_shares(score),
        null_share_at=_shares(null_score),
        untrained_share_at=_shares(reached[0]),
        mcc=mcc,
        mcc_exact=exact,
        mcc_chance=mcc_chance,
        mcc_chance_exact=chance_exact,
        mcc_untrained=_mcc(ours, news[0])[0] if len(news[0][0]) else 0.0,
    )
    other = columns[held.found.index].numpy()
    return summary, Matches(
        rows.numpy(), other, score, null_score, held.found.value.numpy(), p, p_max, reached[0], p_untrained,
        transferred,
    )  # fmt: skip


def _halves(x: Float[Tensor, "n units"], fit: np.ndarray) -> tuple[Int[Tensor, " live"], list[Tensor]]:
    """Latents that vary over the fitting half, and either half of them, centred and of length 1."""
    live = torch.nonzero(x[:, fit].std(1) > 0)[:, 0]
    return live, [unit_rows(_centred(x[live][:, half])) for half in (fit, ~fit)]


def _margin(score: Float[np.ndarray, " n"], *others: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """By how much scores exceed the best of the others, after Fisher's transformation: there a difference is
    as likely between high correlations as between low ones."""
    z = [np.arctanh(np.clip(one.astype(np.float64), -0.999999, 0.999999)) for one in (score, *others)]
    return z[0] - np.max(z[1:], axis=0)


def _shares(score: Float[np.ndarray, " n"]) -> dict[str, float]:
    return {str(t): float((score >= t).mean()) for t in THRESHOLDS}


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """The held-out units of both sides, and the matches that were chosen without them."""

    a: Float[Tensor, "n units"]
    b: Float[Tensor, "m units"]
    found: Nearest

    @classmethod
    def of(cls, a: list[Tensor], b: list[Tensor]) -> _HeldOut:
        """The matches of the first half, on the second; no latents on the other side match nothing."""
        if not len(b[0]):
            b = [half.new_zeros(1, half.shape[1]) for half in b]
        return cls(a[1], b[1], nearest(a[0], b[0])[0])

    @cached_property
    def score(self) -> Float[np.ndarray, " n"]:
        """Correlation of each latent with its match."""
        return (self.a * self.b[self.found.index]).sum(1).numpy()


def _half(groups: Int[np.ndarray, " units"], rng: np.random.Generator) -> Bool[np.ndarray, " units"]:
    """True on the units of a random half of the groups."""
    names = np.unique(groups)
    return np.isin(groups, rng.permutation(names)[: len(names) // 2])


def _numbered(groups: np.ndarray) -> Int[np.ndarray, " units"]:
    return np.unique(groups, return_inverse=True)[1]


def _centred(x: Float[Tensor, "n units"]) -> Float[Tensor, "n units"]:
    return x - x.mean(1, keepdim=True)


def _significance(
    held: _HeldOut, groups: Int[np.ndarray, " units"], n_permutations: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """p of each held-out correlation alone, and against the largest over all latents of each shuffle."""
    a, score, reached = held.a, held.score, np.zeros(len(held.a))
    best = np.full(n_permutations, -np.inf)
    orders = [torch.from_numpy(shuffled_blocks(groups, rng)) for _ in range(n_permutations)]
    step = max(1, CHUNK // a.shape[1])
    for low in range(0, len(a), step):
        part = slice(low, low + step)
        match = held.b[held.found.index[part]]
        for i, order in enumerate(orders):
            by_chance = (a[part] * match[:, order]).sum(1).numpy()
            reached[part] += by_chance >= score[part]
            best[i] = max(best[i], float(by_chance.max()))
    p_max = np.array([permutation_p(float(one), best) for one in score])
    return (1 + reached) / (1 + n_permutations), p_max


def _mcc(a: list[Tensor], b: list[Tensor]) -> tuple[float, bool]:
    """Mean held-out correlation of the one-to-one assignment that is best on the fitting half; if exact."""
    (a_fit, a_held), (b_fit, b_held) = a, b
    pairs = assign(a_fit, b_fit, absolute=False)
    return float((a_held[pairs.a] * b_held[pairs.b]).sum(1).double().mean()), pairs.exact
