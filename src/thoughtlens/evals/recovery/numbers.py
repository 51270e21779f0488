"""Numbers whose values cannot be listed: the latent, anywhere, that rises or falls with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.evals.recovery.places import Held
from thoughtlens.evals.recovery.questions import Rows
from thoughtlens.models import Place
from thoughtlens.numerics import Interval, bootstrap_sums, cluster_index, permutation_p, shuffled_blocks
from thoughtlens.sae import SAE

ROWS = 4_000
"""Rows of a place that are searched."""
LEAST_FIRES = 10
"""Rows on which a latent must differ from its most frequent value, 0 mostly."""

Acts = Callable[[Float[Tensor, "n d_in"], Place], Float[np.ndarray, "n latents"]]


@dataclass(frozen=True, eq=False)
class Risen:
    """The latent whose activation follows a number best, found on validation problems."""

    place: Place
    latent: int
    p: float
    """Of the largest rank correlation of all places and latents, under numbers dealt to other groups."""
    correlation: Interval
    """Spearman's, on test problems; negative where the latent falls as the number rises."""


def acts_of(sae: SAE) -> Acts:
    """Activations of an SAE."""

    @torch.no_grad()
    def acts(x: Float[Tensor, "n d_in"], place: Place) -> Float[np.ndarray, "n latents"]:
        cell = sae.cell_index([(place.hook_name, place.thought)], np.zeros(len(x), np.int64))
        return sae.encode(x.to(sae.W_enc.dtype), cell).float().numpy()

    return acts


def neurons(x: Float[Tensor, "n d_in"], place: Place) -> Float[np.ndarray, "n d_in"]:
    """The coordinates themselves."""
    return x.numpy()


def follow(
    held: Held,
    number: Float[np.ndarray, " problems"],
    places: Sequence[Place],
    acts: Acts,
    *,
    n_permutations: int = 200,
    n_resamples: int = 500,
) -> Risen | None:
    """Search all places and latents for the largest rank correlation; None where no number has rows.

    Chosen on validation problems, its p against the largest of all under `n_permutations` deals of the
    numbers to other groups (Westfall and Young 1993), measured on test problems.

    Args:
        held: The rows.
        number: Of each problem; NaN: it has none.
        places: Where to look.
        acts: Of the dictionary.
        n_permutations: Deals.
        n_resamples: Of groups, for the interval.
    """
    best, found, null = 0.0, None, np.zeros(n_permutations)
    for place in places:
        rows = _known(held.rows(place, "validation"), number, held.group)
        if rows is None:
            continue
        a, kept = _ranks(acts(rows.x, place))
        if not len(kept):
            continue
        y = _standard(scipy.stats.rankdata(number[rows.problem])[:, None])
        own = (a.T @ y)[:, 0]
        dealt = _deals(held.group[rows.problem], n_permutations, held.seed)
        null = np.maximum(null, np.abs(a.T @ y[dealt, 0].T).max(0))
        at = int(np.abs(own).argmax())
        if found is None or abs(own[at]) > best:
            best, found = float(abs(own[at])), (place, int(kept[at]))
    if found is None:
        return None
    test = _known(held.rows(found[0], "test"), number, held.group)
    if test is None:
        return None
    a = acts(test.x, found[0])[:, found[1]]
    interval = rank_correlation(
        a, number[test.problem], held.group[test.problem], n_resamples=n_resamples, seed=held.seed
    )
    return Risen(*found, permutation_p(best, null), interval)


def rank_correlation(
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    n_resamples: int,
    seed: int,
) -> Interval:
    """Spearman's, with whole groups resampled; ranks are those among all rows."""
    x, y = (scipy.stats.rankdata(values) - (len(values) + 1) / 2 for values in (a, b))
    index, n = cluster_index(groups)
    columns = [np.ones(len(x)), x, y, x * x, y * y, x * y]
    sums = np.stack([np.bincount(index, weights=w, minlength=n) for w in columns], axis=1)

    def statistics(total: np.ndarray) -> np.ndarray:
        count, sx, sy, xx, yy, xy = total.T
        spread = np.sqrt(np.maximum((xx - sx**2 / count) * (yy - sy**2 / count), 0))
        return (np.divide(xy - sx * sy / count, spread, out=np.zeros_like(xy), where=spread > 0))[:, None]

    return bootstrap_sums(sums, statistics, n_resamples=n_resamples, seed=seed)[0]


def _known(rows: Rows, number: np.ndarray, group: np.ndarray) -> Rows | None:
    """At most `ROWS` of the rows that have a number, by group; None with fewer than two groups."""
    at = np.flatnonzero(np.isfinite(number[rows.problem]))[:ROWS]
    at = at[np.argsort(group[rows.problem[at]], kind="stable")]
    if len(np.unique(group[rows.problem[at]])) < 2:
        return None
    return Rows(rows.x[torch.from_numpy(at)], rows.problem[at], rows.row[at])


def _ranks(acts: Float[np.ndarray, "n latents"]) -> tuple[np.ndarray, np.ndarray]:
    """Standardised ranks of the latents that vary on enough rows, and which these are."""
    usual = np.median(acts, axis=0)
    kept = np.flatnonzero((acts != usual).sum(0) >= min(LEAST_FIRES, len(acts) // 2))
    return _standard(scipy.stats.rankdata(acts[:, kept], axis=0)), kept


def _standard(ranks: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and length 1."""
    centred = ranks - ranks.mean(0)
    length = np.sqrt((centred**2).sum(0))
    return centred / np.where(length > 0, length, 1)


def _deals(groups: Int[np.ndarray, " n"], n: int, seed: int) -> Int[np.ndarray, "n_deals n"]:
    """Random orders that keep groups together."""
    rng = np.random.default_rng((seed, 7))
    return np.stack([shuffled_blocks(groups, rng) for _ in range(n)])
