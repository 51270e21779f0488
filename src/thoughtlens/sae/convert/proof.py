"""The proof that a conversion changed nothing: both formats' own rules on the same random rows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import MismatchError
from thoughtlens.sae.convert.records import Proof
from thoughtlens.sae.formats.arithmetic import Forward
from thoughtlens.sae.formats.portable import Portable

ROWS = 64
TOLERANCE = 1e-5
SCALES = (1.0, 10.0, 100.0, 1000.0)
"""Lengths of the random rows' entries: thresholds of some tens must be passed on some rows."""
EDGE_SHARE = 16
"""One row in so many may lie so near to a threshold that rounding decides what fires."""

DEFINITIONS = {
    "max_delta_acts": "largest |difference| of an activation over the rows, both formats' rules in float64",
    "max_delta_x_hat": "largest |difference| of an entry of the reconstruction",
    "relative": "the same over the largest entry of the row, where that is above 1",
    "n_edge_rows": "rows left out: a latent is within rounding of its threshold and fires in one format only",
    "l0": "mean number of latents that fire on the rows",
}


def rows(sae: Portable, seed: int = 0) -> Float[Tensor, "n d_in"]:
    """Random rows of several lengths; every other one points along a latent's encoder, so that it fires."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, sae.d_in, generator=generator, dtype=torch.float64)
    latents = torch.randint(sae.d_sae, (ROWS // 2,), generator=generator)
    towards = sae.weights.W_enc[:, latents].double().T
    length = towards.norm(dim=1, keepdim=True).clamp(min=1e-12)
    x[::2] = 0.1 * x[::2] + sae.d_in**0.5 * towards / length
    x *= torch.tensor(SCALES, dtype=torch.float64).repeat(ROWS // len(SCALES)).sort().values[:, None]
    return x + sae.weights.b_dec.double() if sae.pre_bias else x


def compare(before: Forward, after: Forward) -> Proof:
    """How far two formats' forward passes are from each other.

    Raises:
        MismatchError: further than rounding explains.
    """
    same = ((before.acts != 0) == (after.acts != 0)).all(1)
    n_edge = int((~same).sum())
    acts = _gap(before.acts[same], after.acts[same])
    x_hat = _gap(before.x_hat[same], after.x_hat[same])
    if not max(acts[1], x_hat[1]) <= TOLERANCE or n_edge > len(same) // EDGE_SHARE:
        raise MismatchError(
            f"The converted SAE is not the same: on {len(same)} random rows activations differ by "
            f"{acts[1]:.2g} and reconstructions by {x_hat[1]:.2g} (relative; expected <= {TOLERANCE:g}), "
            f"other latents fire on {n_edge} rows. Nothing was kept; please report this"
        )
    return Proof(
        n_rows=len(same),
        n_edge_rows=n_edge,
        l0=float((before.acts != 0).sum(1).double().mean()),
        max_delta_acts=acts[0],
        max_delta_acts_relative=acts[1],
        max_delta_x_hat=x_hat[0],
        max_delta_x_hat_relative=x_hat[1],
    )


def _gap(a: Tensor, b: Tensor) -> tuple[float, float]:
    if len(a) == 0:
        return 0.0, 0.0
    gap = (a - b).abs().amax(1)
    return float(gap.max()), float((gap / a.abs().amax(1).clamp(min=1)).max())
