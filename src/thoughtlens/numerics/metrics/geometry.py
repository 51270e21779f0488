"""Dictionaries against each other, or against the truth: cosines between directions.

A dictionary is a matrix with one direction per row, as `W_dec`. Norms do not count. Every score has a
chance level that falls with d and rises with the number of directions; print it beside the score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from thoughtlens.core import DataError, MismatchError

CHUNK = 4096
"""Rows of a cosine matrix computed at once."""

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class MMCS(NamedTuple):
    """Mean max cosine similarity in both directions (Sharkey, Braun and Millidge 2022)."""

    recall: float
    """Mean over true directions of the best cosine with a found one: is every truth found?"""
    precision: float
    """Mean over found directions of the best cosine with a true one: is every finding true?"""


class Chance(NamedTuple):
    """What independent Gaussian directions score."""

    mmcs_recall: float
    mmcs_precision: float
    mcc: float


class Match(NamedTuple):
    """A one-to-one assignment of directions."""

    a: Int[np.ndarray, " pairs"]
    b: Int[np.ndarray, " pairs"]
    cosine: Float[np.ndarray, " pairs"]
    """Signed cosine of each pair."""


class Stability(NamedTuple):
    """How far SAEs of different seeds find the same directions."""

    mcc: float
    """Mean over pairs of seeds."""
    mcc_pairs: list[float]
    chance: float
    """`mcc` of independent Gaussian directions."""
    share_matched: dict[float, float]
    """For each threshold, the share of assigned pairs with |cosine| at or above it."""
    n_latents: list[int]
    """Live latents of each seed."""


def mmcs(found: Float[Tensor, "n d"], truth: Float[Tensor, "m d"]) -> MMCS:
    """Mean max cosine similarity, signed, in both directions. 1 is perfect; see `chance_level`."""
    best_for_truth = torch.full((len(truth),), -2.0, dtype=torch.float64)
    best_for_found = []
    for cosines in _cosine_blocks(found, truth):
        best_for_found.append(cosines.amax(1))
        best_for_truth = torch.maximum(best_for_truth, cosines.amax(0).cpu())
    return MMCS(best_for_truth.mean().item(), torch.cat(best_for_found).mean().item())


def match(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Match:
    """The one-to-one assignment of min(n, m) pairs with the largest sum of |cosine| (Hungarian).

    Holds the n x m matrix in memory; its time grows with the cube of the smaller side.
    """
    cosines = torch.cat(list(_cosine_blocks(a, b))).cpu().numpy()
    rows, columns = linear_sum_assignment(-np.abs(cosines))
    return Match(rows, columns, cosines[rows, columns])


def mcc(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Mean |cosine| of the best one-to-one assignment, over min(n, m) pairs. 1 is the same dictionary."""
    return float(np.abs(match(a, b).cosine).mean())


def uniqueness(found: Float[Tensor, "n d"], truth: Float[Tensor, "m d"]) -> float:
    """Share of distinct truths among the nearest truths (signed cosine) of all n found directions.

    1 if no two directions stand for the same truth. Not taken from the assignment of `match`, where
    it would be 1 always.
    """
    nearest = torch.cat([cosines.argmax(1) for cosines in _cosine_blocks(found, truth)])
    return len(nearest.unique()) / len(nearest)


def chance_level(n: int, m: int, d: int, *, seed: int = 0, repeats: int = 3) -> Chance:
    """Mean scores of `n` against `m` independent Gaussian directions in `d` dimensions.

    Roughly sqrt(2 ln n / d) for MMCS recall.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for _ in range(repeats):
        a, b = torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator)
        scores.append([*mmcs(a, b), mcc(a, b)])
    return Chance(*np.mean(scores, axis=0).tolist())


def stability(
    dictionaries: Sequence[Float[Tensor, "n d"]],
    live: Sequence[Bool[Tensor, " n"]] | None = None,
    *,
    seed: int = 0,
) -> Stability:
    """How far SAEs trained from different seeds find the same directions.

    Args:
        dictionaries: W_dec (or W_enc transposed) of each seed; at least two.
        live: Which latents of each are alive. Dead ones are noise and should be left out.
        seed: Of the chance level.
    """
    if len(dictionaries) < 2:
        raise DataError(f"Stability needs dictionaries from at least two seeds, got {len(dictionaries)}")
    if live is not None:
        dictionaries = [w[mask] for w, mask in zip(dictionaries, live, strict=True)]
    pairs = [np.abs(match(a, b).cosine) for a, b in combinations(dictionaries, 2)]
    every = np.concatenate(pairs)
    (n, d), m = dictionaries[0].shape, len(dictionaries[1])
    return Stability(
        mcc=float(np.mean([p.mean() for p in pairs])),
        mcc_pairs=[float(p.mean()) for p in pairs],
        chance=chance_level(n, m, d, seed=seed).mcc,
        share_matched={t: float((every >= t).mean()) for t in THRESHOLDS},
        n_latents=[len(w) for w in dictionaries],
    )


def firing_scores(
    acts: Float[Tensor, "batch n"], truth: Float[Tensor, "batch m"], pairs: Match
) -> dict[str, Float[np.ndarray, " pairs"]]:
    """Precision, recall and F1 of each latent's firing (act != 0) against its matched truth's.

    NaN where a latent never fires (precision) or a truth never does (recall). F1 is
    2 tp / (2 tp + fp + fn), NaN if neither fires.
    """
    ours = (acts != 0).cpu().numpy()[:, pairs.a]
    theirs = (truth != 0).cpu().numpy()[:, pairs.b]
    tp, fp, fn = (ours & theirs).sum(0), (ours & ~theirs).sum(0), (~ours & theirs).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"precision": tp / (tp + fp), "recall": tp / (tp + fn), "f1": 2 * tp / (2 * tp + fp + fn)}


def found_again(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], at: float = 0.9) -> Bool[np.ndarray, " n"]:
    """Whether a direction of b has a cosine of at least `at` with each of a."""
    if not len(a) or not len(b):
        return np.zeros(len(a), bool)
    return torch.cat([cosines.amax(1) >= at for cosines in _cosine_blocks(a, b)]).numpy(force=True)


def encoder_decoder_cosine(
    W_enc: Float[Tensor, "d d_sae"], W_dec: Float[Tensor, "d_sae d"]
) -> Float[Tensor, " d_sae"]:
    """Cosine of each latent's encoder column with its decoder row; low where reading and writing part."""
    return (_unit(W_enc.T) * _unit(W_dec)).sum(1)


def nearest_cosine(W: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """For each direction, the largest cosine with another one of the same dictionary."""
    if len(W) < 2:
        raise DataError(f"The nearest other direction needs at least two, got {len(W)}")
    best, start = [], 0
    for cosines in _cosine_blocks(W, W):
        mine = torch.arange(len(cosines), device=cosines.device)
        cosines[mine, start + mine] = -2.0
        best.append(cosines.amax(1))
        start += len(cosines)
    return torch.cat(best)


def _cosine_blocks(a: Tensor, b: Tensor) -> Iterator[Float[Tensor, "some m"]]:
    if a.shape[1] != b.shape[1]:
        raise MismatchError(f"Expected directions of one width, got {a.shape[1]} and {b.shape[1]}")
    if len(a) == 0 or len(b) == 0:
        raise DataError(f"Expected at least one direction on each side, got {len(a)} and {len(b)}")
    b = _unit(b).T.to(a.device)
    for block in _unit(a).split(CHUNK):
        yield block @ b


def _unit(w: Tensor) -> Tensor:
    """Rows of norm 1 in float64; a row of zeros stays zero, and so has cosine 0 with everything."""
    return torch.nn.functional.normalize(w.detach().double(), dim=1)
