"""Two SAEs by their decoder directions, beside Gaussian directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtlens.latents.geometry.blocks import Assignment, assign, nearest, unit_rows
from thoughtlens.numerics.metrics.geometry import THRESHOLDS
from thoughtlens.sae.base import SAE

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
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """MMCS in both directions and MCC of the live latents, with what Gaussian directions score.

    Returns:
        The summary, and for each live latent of a its number, nearest latent of b and cosine, and the best
        cosine of a Gaussian direction in its place.
    """
    rows, columns = (torch.from_numpy(np.flatnonzero(mask)) for mask in live)
    scores, (of_a, _) = _scores(a[rows], b[columns])
    by_chance, null = [], None
    generator = torch.Generator().manual_seed(seed)
    for _ in range(REPEATS if len(rows) * len(columns) <= SMALL else 1):
        drawn = [unit_rows(torch.randn(len(i), a.shape[1], generator=generator)) for i in (rows, columns)]
        found, (best, _) = _scores(*drawn)
        by_chance.append(found)
        null = best.value if null is None else null
    assert null is not None
    chance = {
        f"{k}_chance": float(np.mean([c[k] for c in by_chance])) for k in ("mmcs_of_a", "mmcs_of_b", "mcc")
    }
    summary = {"n": len(rows), "n_other": len(columns), "d": a.shape[1], **scores, **chance}
    table = {
        "latent": rows.numpy(),
        "other": columns[of_a.index].numpy(),
        "score": of_a.value.numpy(),
        "null_score": null.numpy(),
    }
    return summary, table


def _scores(a: Tensor, b: Tensor) -> tuple[dict[str, Any], tuple[Any, Any]]:
    found = nearest(a, b)
    pairs: Assignment = assign(a, b, absolute=True)
    size = np.abs(pairs.value)
    return {
        "mmcs_of_a": float(found[0].value.double().mean()),
        "mmcs_of_b": float(found[1].value.double().mean()),
        "mcc": float(size.mean(dtype=np.float64)),
        "mcc_exact": pairs.exact,
        "share_matched": {str(t): float((size >= t).mean()) for t in THRESHOLDS},
    }, found
