"""Numerical kernels, chosen per call by device and dtype; `reference` defines them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.kernels.choose import backend, name
from thoughtlens.kernels.reference import linear, pick, topk

__all__ = ["decode", "encode_topk", "linear", "name", "pick", "topk"]


def encode_topk(
    z: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    k: int,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"], Float[Tensor, "batch d_sae"]]:
    """See `reference.encode_topk`."""
    return backend(W).encode_topk(z, W, b, k, dtype)


def decode(
    values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "batch d_out"]:
    """See `reference.decode`."""
    return backend(W_dec).decode(values, indices, W_dec)
