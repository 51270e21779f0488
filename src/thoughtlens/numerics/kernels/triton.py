"""Kernels for float32 weights on a GPU: products by torch, everything sparse and elementwise by Triton.

`reference` has the signatures and says what each gives. Also run under Triton's interpreter on a CPU
(`TRITON_INTERPRET=1`), where tests compare them.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from thoughtlens.numerics.kernels.autograd import Decode, DecodeError, TopK, dense_error
from thoughtlens.numerics.kernels.reference import counted_through, decode_dense, decode_ragged, ragged_error
from thoughtlens.numerics.kernels.triton_adam import adam_rows, grad_squares
from thoughtlens.numerics.kernels.triton_batch import EncodeBatchTopK
from thoughtlens.numerics.kernels.triton_error import reconstruct
from thoughtlens.numerics.kernels.triton_relu import EncodeReLU
from thoughtlens.numerics.kernels.triton_rows import (
    by_latent,
    latent_rows,
    latent_sums,
    row_products,
    weighted_rows,
)
from thoughtlens.numerics.kernels.triton_select import select

__all__ = [
    "adam_rows",
    "decode",
    "decode_dense",
    "decode_error",
    "decode_ragged",
    "dense_error",
    "encode_batchtopk",
    "encode_relu",
    "encode_topk",
    "grad_squares",
    "latent_rows",
    "ragged_error",
    "reconstruct",
    "row_products",
    "select",
    "topk",
    "weighted_rows",
]

OPS = sys.modules[__name__]


def topk(pre_acts, k):
    return TopK.apply(pre_acts, k, OPS)


def encode_topk(z, W, b, k, dtype, centre=None):
    return EncodeTopK.apply(z, centre, W, b, k, dtype)


def encode_relu(z, centre, W, b, dtype):
    return EncodeReLU.apply(_centred(z, centre, dtype), centre, W, b)


def encode_batchtopk(z, centre, W, b, k, dtype):
    """In `dtype`."""
    return EncodeBatchTopK.apply(_centred(z, centre, dtype), centre, W, b, k)


def decode(values, indices, W_dec):
    return Decode.apply(values, indices, W_dec, OPS)


def decode_error(values, indices, W_dec, z, b_dec):
    return DecodeError.apply(values, indices, W_dec, z, b_dec, OPS)


def _centred(z: Tensor, centre: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What the encoder's product takes."""
    return (z if centre is None else z - centre[..., None, :]).detach().to(dtype)


class EncodeTopK(torch.autograd.Function):
    """Gradients of only the latents that fire, from the rows that the product took, in its dtype."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, centre: Tensor | None, W: Tensor, b: Tensor, k: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Values and indices."""
        x = _centred(z, centre, dtype)
        products = x @ W.to(dtype)
        values, indices = select(products.flatten(0, -2), b.reshape(-1, b.shape[-1]), k)
        values, indices = counted_through(values, indices, products.shape)
        ctx.save_for_backward(x, W, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients in z, the centre, W and b; the centre's needs no row's own: they all share it."""
        x, W, values, indices = (t.flatten(0, -2) if i != 1 else t for i, t in enumerate(ctx.saved_tensors))
        grad = torch.where(values > 0, grad.reshape(values.shape), 0)
        z_grad = centre_grad = W_grad = b_grad = None
        if any(ctx.needs_input_grad[1:4]):
            pairs = by_latent(grad, indices, W[..., 0, :].numel())
            W_grad, b_grad = latent_sums(grad, pairs, x)
            W_grad, b_grad = W_grad.view(W.mT.shape).mT, b_grad.view(*W.shape[:-2], -1)
        if ctx.needs_input_grad[0]:
            z_grad = weighted_rows(grad, indices, W.mT.flatten(0, -2)).view(*ctx.saved_tensors[0].shape)
        if ctx.needs_input_grad[1] and b_grad is not None:
            centre_grad = -(W @ b_grad[..., None]).squeeze(-1)
        return z_grad, centre_grad, W_grad, b_grad, None, None
