"""Two SAEs by what their latents do on the same problems: does a latent transfer?

The best match of each latent is chosen on one half of the problems and scored on the other, so that having
looked at thousands of candidates is not paid for with a high score.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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


def compare(
    a: Float[Tensor, "n units"],
    b: Float[Tensor, "m units"],
    groups: Int[np.ndarray, " units"],
    *,
    n_permutations: int,
    seed: int,
) -> tuple[ActivationScores, Matches]:
    """Best-match correlation on held-out units, its null, and MCC by correlation.

    Latents that do not vary over the fitting half are left out of both sides.

    Args:
        a: Activations of one SAE's latents on shared units.
        b: Of the other's, on the same units in the same order.
        groups: Units of one group go to the same half, and are shuffled together.
        n_permutations: Shuffles of the held-out units.
        seed: Of the halves and the shuffles.

    Returns:
        The summary, and the match of each live latent of a: `score` is held out, and `null_score` the same
        with the other side's units shuffled before the match was chosen.
    """
    rng = np.random.default_rng((seed, 67))
    order = np.argsort(groups, kind="stable")
    a, b, groups = a[:, order], b[:, order], groups[order]
    fit = _half(groups, rng)
    rows, columns = (torch.nonzero(x[:, fit].std(1) > 0)[:, 0] for x in (a, b))
    halves = [[unit_rows(_centred(x[i][:, h])) for h in (fit, ~fit)] for x, i in ((a, rows), (b, columns))]
    (a_fit, a_held), (b_fit, b_held) = halves
    found, _ = nearest(a_fit, b_fit)
    held = _HeldOut(a_held, b_held, found)
    shuffled = [x[:, shuffled_blocks(_numbered(groups[h]), rng)] for x, h in ((b_fit, fit), (b_held, ~fit))]
    null_found, _ = nearest(a_fit, shuffled[0])
    score, null_score = held.score, _HeldOut(a_held, shuffled[1], null_found).score
    p, p_max = _significance(held, _numbered(groups[~fit]), n_permutations, rng)
    transferred = p_max <= ALPHA
    share = wilson(int(transferred.sum()), len(transferred))
    mcc, exact = _mcc(*halves)
    mcc_chance, chance_exact = _mcc(halves[0], shuffled)
    summary = ActivationScores(
        n=len(rows),
        n_other=len(columns),
        n_units_fit=int(fit.sum()),
        n_units_held_out=int((~fit).sum()),
        mean_score=float(score.mean()),
        mean_null_score=float(null_score.mean()),
        share_transferred=share.estimate,
        share_transferred_low=share.low,
        share_transferred_high=share.high,
        share_at={str(t): float((score >= t).mean()) for t in THRESHOLDS},
        null_share_at={str(t): float((null_score >= t).mean()) for t in THRESHOLDS},
        mcc=mcc,
        mcc_exact=exact,
        mcc_chance=mcc_chance,
        mcc_chance_exact=chance_exact,
    )
    other = columns[found.index].numpy()
    return summary, Matches(rows.numpy(), other, score, null_score, found.value.numpy(), p, p_max)


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """The held-out units of both sides, and the matches that were chosen without them."""

    a: Float[Tensor, "n units"]
    b: Float[Tensor, "m units"]
    found: Nearest

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
