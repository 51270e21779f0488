"""Two SAEs by their decoder directions, beside Gaussian directions."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtlens.latents.geometry.blocks import Assignment, Matches, Nearest, assign, nearest, unit_rows
from thoughtlens.latents.geometry.records import DecoderScores
from thoughtlens.numerics import THRESHOLDS
from thoughtlens.sae import SAE

REPEATS, SMALL = 3, 1 << 20
"""Draws of Gaussian directions; one draw where there are more pairs than this."""


def directions(sae: SAE) -> Float[Tensor, "d_sae d"]:
    """Decoder rows of norm 1; a crosscoder's sites one after the other."""
    return unit_rows(sae.W_dec.detach().flatten(1))


def compare(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    live: tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " m"]],
    seed: int,
) -> tuple[DecoderScores, Matches]:
    """MMCS in both directions and MCC of the live latents, with what Gaussian directions score.

    Returns:
        The summary, and for each live latent of a its nearest latent of b and cosine, and as null score the
        best cosine of a Gaussian direction in its place.
    """
    rows, columns = (torch.from_numpy(np.flatnonzero(mask)) for mask in live)
    found, (of_a, of_b) = assign(a[rows], b[columns], absolute=True), nearest(a[rows], b[columns])
    size = np.abs(found.value)
    by_chance, chance_sizes, null = [], [], None
    generator = torch.Generator().manual_seed(seed)
    for _ in range(REPEATS if len(rows) * len(columns) <= SMALL else 1):
        drawn = [unit_rows(torch.randn(len(i), a.shape[1], generator=generator)) for i in (rows, columns)]
        best = nearest(*drawn)
        pairs = assign(*drawn, absolute=True)
        by_chance.append(_means(*best, pairs))
        chance_sizes.append(np.abs(pairs.value))
        null = best[0].value if null is None else null
    assert null is not None
    names = ("mmcs_of_a", "mmcs_of_b", "mcc")
    means = dict(zip(names, _means(of_a, of_b, found), strict=True))
    chance = zip(names, np.mean(by_chance, axis=0).tolist(), strict=True)
    summary = DecoderScores(
        n=len(rows),
        n_other=len(columns),
        d=a.shape[1],
        mcc_exact=found.exact,
        share_matched={str(t): float((size >= t).mean()) for t in THRESHOLDS},
        share_matched_chance={str(t): float((np.stack(chance_sizes) >= t).mean()) for t in THRESHOLDS},
        **means,
        **{f"{name}_chance": value for name, value in chance},
    )
    return summary, Matches(rows.numpy(), columns[of_a.index].numpy(), of_a.value.numpy(), null.numpy())


def _means(of_a: Nearest, of_b: Nearest, found: Assignment) -> list[float]:
    """MMCS of either side, and MCC."""
    mcc = float(np.abs(found.value).mean(dtype=np.float64))
    return [float(of_a.value.double().mean()), float(of_b.value.double().mean()), mcc]
