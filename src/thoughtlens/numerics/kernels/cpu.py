"""Kernels for float32 weights on a CPU: products by torch, everything sparse by the loops of `loops.py`.

`reference` has the signatures and says what each gives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.numerics.kernels import cpu_rows, loops, reference
from thoughtlens.numerics.kernels.autograd import Decode, DecodeError, TopK, dense_error
from thoughtlens.numerics.kernels.cpu_ragged import (
    DecodeRagged,
    EncodeRagged,
    RaggedError,
    batch_largest,
    gathered,
    ragged,
    row_counts,
)
from thoughtlens.numerics.kernels.cpu_rows import summed
from thoughtlens.numerics.kernels.host import array, share
from thoughtlens.numerics.kernels.ragged import RaggedActs
from thoughtlens.numerics.kernels.reference import counted_through

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
    "ragged_error",
    "topk",
]

RAGGED_BELOW = 1 / 20
"""Share of activations that are not 0 from which on dense products are faster than sparse ones."""
MANY = 1 << 18
"""Activations below which it is not worth looking for those that are not 0."""


def encode_topk(z, W, b, k, dtype, centre=None):
    return EncodeTopK.apply(z, centre, W, b, k, dtype)


def encode_relu(z, centre, W, b, dtype):
    """Ragged where at most `RAGGED_BELOW` of the activations are not 0."""
    centred, products = _products(z, centre, W, dtype)
    counts = row_counts(products, b)
    if counts.sum() > RAGGED_BELOW * products.numel():
        return EncodeReLU.apply(centred.to(dtype), centre, W, b, products)
    acts, totals = _ragged(centred, centre, W, b, gathered(products, b, counts))
    return acts, totals, acts.counts


def encode_batchtopk(z, centre, W, b, k, dtype):
    """Always ragged."""
    centred, products = _products(z, centre, W, dtype)
    return _ragged(centred, centre, W, b, batch_largest(products, b, k))[0]


def decode_dense(acts, W_dec):
    """Without what is 0 where at most `RAGGED_BELOW` of many are not."""
    differentiated = torch.is_grad_enabled() and (acts.requires_grad or W_dec.requires_grad)
    if differentiated or acts.numel() < MANY or acts.min() < 0:
        return acts @ W_dec
    flat, none = acts.reshape(-1, len(W_dec)), torch.zeros(len(W_dec))
    counts = row_counts(flat, none)
    if counts.sum() > RAGGED_BELOW * flat.numel():
        return acts @ W_dec
    starts, latents, values = gathered(flat, none, counts)
    return summed(loops.Pairs(values, latents, starts), W_dec).view(*acts.shape[:-1], -1)


def decode_ragged(acts, W_dec):
    return DecodeRagged.apply(acts.values, W_dec, acts)


def decode(values, indices, W_dec):
    return Decode.apply(values, indices, W_dec, cpu_rows)


def decode_error(values, indices, W_dec, z, b_dec):
    return DecodeError.apply(values, indices, W_dec, z, b_dec, cpu_rows)


def ragged_error(acts, W_dec, z, b_dec):
    return RaggedError.apply(acts.values, W_dec, z, b_dec, acts)


def topk(pre_acts, k):
    return TopK.apply(pre_acts, k, cpu_rows)


def grad_squares(p, grad, idle, unit_from):
    squares = torch.empty(len(p))
    arrays = (array(p), array(grad), array(idle), unit_from, array(squares))
    share(loops.grad_squares, len(p), *arrays)
    return squares


def adam_rows(p, grad, state, idle, *, lr, betas, eps, factor=1.0, unit_from=None, lazy=False):
    """Everything in one pass over each row."""
    if not all(t.is_contiguous() for t in (p, state.exp_avg, state.exp_avg_sq)):
        settings = {"lr": lr, "betas": betas, "eps": eps, "factor": factor}
        reference.adam_rows(p, grad, state, idle, unit_from=unit_from, lazy=lazy, **settings)
        return
    state.step.add_(1)
    step = int(state.step)
    correction, root = 1 - betas[0] ** step, (1 - betas[1] ** step) ** 0.5
    unit_from = len(p) if unit_from is None else unit_from
    how = loops.AdamStep(step, lazy, unit_from, factor, lr, correction, root, betas[0], betas[1], eps)
    moments = loops.Moments(array(state.exp_avg), array(state.exp_avg_sq), array(state.last))
    share(loops.adam_rows, len(p), array(p), array(grad), moments, array(idle), how)


class EncodeTopK(torch.autograd.Function):
    """Gradients of only the latents that fire, row by row of the transposed encoder."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, centre: Tensor | None, W: Tensor, b: Tensor, k: int, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Values and indices."""
        centred = z if centre is None else z - centre[..., None, :]
        products = centred.to(dtype) @ W.to(dtype)
        values, indices = cpu_rows.select(products.flatten(0, -2), b.reshape(-1, b.shape[-1]), k)
        values, indices = counted_through(values, indices, products.shape)
        ctx.save_for_backward(centred, W, values, indices)
        ctx.mark_non_differentiable(indices)
        ctx.set_materialize_grads(False)
        return values, indices

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients in z, the centre, W and b; the centre's needs no row's own: they all share it."""
        centred, W, values, indices = ctx.saved_tensors
        rows = W.mT.flatten(0, -2)
        grad = torch.where(values > 0, grad, 0).flatten(0, -2)
        values, indices = values.flatten(0, -2), indices.flatten(0, -2)
        z_grad = centre_grad = W_grad = None
        b_grad = grad.new_zeros(len(rows)).index_add_(0, indices.flatten(), grad.flatten())
        b_grad = b_grad.view(*W.shape[:-2], -1)
        if ctx.needs_input_grad[0]:
            z_grad = cpu_rows.weighted_rows(grad, indices, rows).view_as(centred)
        if ctx.needs_input_grad[1]:
            centre_grad = -(W @ b_grad[..., None]).squeeze(-1)
        if ctx.needs_input_grad[2]:
            W_grad = cpu_rows.latent_rows(grad, grad, indices, centred.flatten(0, -2), len(rows))
            W_grad = W_grad.view(W.mT.shape).mT
        return z_grad, centre_grad, W_grad, b_grad, None, None


class EncodeReLU(torch.autograd.Function):
    """Bias, ReLU, sums and counts in one pass over the products, which it replaces; as few passes back.

    The gradient in W stays in the products' dtype: widened it would only be larger to read.
    """

    @staticmethod
    def forward(
        ctx: Any, centred: Tensor, centre: Tensor | None, W: Tensor, b: Tensor, products: Tensor
    ) -> tuple[Tensor, ...]:
        """acts, their sums and counts over rows."""
        totals, counts = torch.empty_like(b), torch.empty(len(b), dtype=torch.long)
        share(loops.relu_bias, len(b), array(products), array(b), array(totals), array(counts))
        ctx.save_for_backward(centred, W, products)
        ctx.mark_dirty(products)
        ctx.mark_non_differentiable(counts)
        ctx.set_materialize_grads(False)
        return products, totals, counts

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor | None, totals_grad: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        """Gradients in the centre, W and b."""
        centred, W, acts = ctx.saved_tensors
        grad = torch.zeros_like(acts) if grad is None else grad
        shift = W.new_zeros(W.shape[1]) if totals_grad is None else totals_grad
        pre_grad, b_grad = torch.empty_like(acts), torch.empty_like(shift)
        arrays = (array(t) for t in (grad, acts, shift, pre_grad, b_grad))
        share(loops.relu_backward, len(shift), *arrays)
        W_grad = (pre_grad.T @ centred).T
        centre_grad = -(W @ b_grad) if ctx.needs_input_grad[1] else None
        return None, centre_grad, W_grad, b_grad, None


@torch.no_grad()
def _products(
    z: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W: Float[Tensor, "d_in d_sae"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "batch d_in"], Float[Tensor, "batch d_sae"]]:
    """The centred input, and its products with the encoder in `dtype`."""
    centred = z if centre is None else z - centre
    return centred, centred.to(dtype) @ W.to(dtype)


def _ragged(
    centred: Tensor,
    centre: Tensor | None,
    W: Tensor,
    b: Tensor,
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[RaggedActs, Float[Tensor, " d_sae"]]:
    """Activations with their gradients, and each latent's sum over rows."""
    acts = ragged(*found, len(b))
    values, totals = EncodeRagged.apply(centred, centre, W, b, acts)
    return replace(acts, values=values), totals
