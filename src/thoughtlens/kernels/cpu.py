"""Kernels for float32 weights on a CPU: products by torch, everything sparse by the loops of `loops.py`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.kernels import loops, reference
from thoughtlens.kernels.arrays import array
from thoughtlens.kernels.autograd import Decode, DecodeError, DenseError, EncodeTopK, TopK
from thoughtlens.kernels.cpu_ragged import (
    DecodeRagged,
    EncodeRagged,
    RaggedError,
    batch_largest,
    gathered,
    ragged,
    reconstructed,
    row_counts,
)
from thoughtlens.kernels.ragged import RaggedActs
from thoughtlens.kernels.reference import AdamState
from thoughtlens.kernels.threads import share

OPS = sys.modules[__name__]
RAGGED_BELOW = 1 / 20
"""Share of activations that are not 0 from which on dense products are faster than sparse ones."""
MANY = 1 << 18
"""Activations below which it is not worth looking for those that are not 0."""


def encode_topk(
    z: Float[Tensor, "*members batch d_in"],
    W: Float[Tensor, "*members d_in d_sae"],
    b: Float[Tensor, "*members d_sae"],
    k: int,
    dtype: torch.dtype,
    centre: Float[Tensor, "*members d_in"] | None = None,
) -> tuple[Float[Tensor, "*members batch k"], Int[Tensor, "*members batch k"]]:
    """See `reference.encode_topk`."""
    return EncodeTopK.apply(z, centre, W, b, k, dtype, OPS)


def encode_relu(
    z: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "batch d_sae"] | RaggedActs, Float[Tensor, " d_sae"], Int[Tensor, " d_sae"]]:
    """See `reference.encode_relu`; ragged where at most `RAGGED_BELOW` of the activations are not 0."""
    centred, products = _products(z, centre, W, dtype)
    counts = row_counts(products, b)
    if counts.sum() > RAGGED_BELOW * products.numel():
        return EncodeReLU.apply(centred.to(dtype), centre, W, b, products)
    acts, totals = _ragged(centred, centre, W, b, gathered(products, b, counts))
    return acts, totals, acts.counts


def encode_batchtopk(
    z: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    k: int,
    dtype: torch.dtype,
) -> RaggedActs:
    """See `reference.encode_batchtopk`; always ragged."""
    centred, products = _products(z, centre, W, dtype)
    return _ragged(centred, centre, W, b, batch_largest(products, b, k))[0]


def decode_dense(
    acts: Float[Tensor, "*batch d_sae"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "*batch d_out"]:
    """See `reference.decode_dense`; without what is 0 where at most `RAGGED_BELOW` of many are not."""
    differentiated = torch.is_grad_enabled() and (acts.requires_grad or W_dec.requires_grad)
    if differentiated or acts.numel() < MANY or acts.min() < 0:
        return acts @ W_dec
    flat, none = acts.reshape(-1, len(W_dec)), torch.zeros(len(W_dec))
    counts = row_counts(flat, none)
    if counts.sum() > RAGGED_BELOW * flat.numel():
        return acts @ W_dec
    starts, latents, values = gathered(flat, none, counts)
    out = torch.empty(len(flat), W_dec.shape[1])
    share(loops.sum_rows, len(out), values, starts, latents, array(W_dec), array(out))
    return out.view(*acts.shape[:-1], -1)


def decode_ragged(acts: RaggedActs, W_dec: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "batch d_out"]:
    """See `reference.decode_ragged`."""
    return DecodeRagged.apply(acts.values, W_dec, acts)


def decode(
    values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "batch d_out"]:
    """See `reference.decode`."""
    return Decode.apply(values, indices, W_dec, OPS)


def decode_error(
    values: Float[Tensor, "*members batch k"],
    indices: Int[Tensor, "*members batch k"],
    W_dec: Float[Tensor, "*members d_sae d_out"],
    z: Float[Tensor, "*members batch d_out"],
    b_dec: Float[Tensor, "*members d_out"],
) -> tuple[Float[Tensor, "*members"], Float[Tensor, "*members batch d_out"]]:
    """See `reference.decode_error`."""
    return DecodeError.apply(values, indices, W_dec, z, b_dec, OPS)


def ragged_error(
    acts: RaggedActs,
    W_dec: Float[Tensor, "d_sae d_out"],
    z: Float[Tensor, "batch d_out"],
    b_dec: Float[Tensor, " d_out"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_out"]]:
    """See `reference.ragged_error`."""
    return RaggedError.apply(acts.values, W_dec, z, b_dec, acts)


def dense_error(
    acts: Float[Tensor, "batch d_sae"],
    W_dec: Float[Tensor, "d_sae d_out"],
    z: Float[Tensor, "batch d_out"],
    b_dec: Float[Tensor, " d_out"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_out"]]:
    """See `reference.dense_error`."""
    return DenseError.apply(acts, W_dec, z, b_dec, dtype)


def topk(
    pre_acts: Float[Tensor, "batch d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """See `reference.topk`."""
    return TopK.apply(pre_acts, k, OPS)


def grad_squares(
    p: Float[Tensor, "n d"], grad: Float[Tensor, "n d"], idle: Bool[Tensor, " n"], unit_from: int
) -> Float[Tensor, " n"]:
    """See `reference.grad_squares`."""
    squares = torch.empty(len(p))
    arrays = (array(p), array(grad), array(idle), unit_from, array(squares))
    share(loops.grad_squares, len(p), *arrays)
    return squares


def adam_rows(
    p: Float[Tensor, "n d"],
    grad: Float[Tensor, "n d"],
    state: AdamState,
    idle: Bool[Tensor, " n"],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    factor: float = 1.0,
    unit_from: int | None = None,
    lazy: bool = False,
) -> None:
    """See `reference.adam_rows`: everything in one pass over each row."""
    if not all(t.is_contiguous() for t in (p, state.exp_avg, state.exp_avg_sq)):
        settings = {"lr": lr, "betas": betas, "eps": eps, "factor": factor}
        reference.adam_rows(p, grad, state, idle, unit_from=unit_from, lazy=lazy, **settings)
        return
    state.step.add_(1)
    step = int(state.step)
    numbers = (factor, lr, 1 - betas[0] ** step, (1 - betas[1] ** step) ** 0.5, *betas, eps)
    moments = (array(state.exp_avg), array(state.exp_avg_sq), array(state.last))
    unit_from = len(p) if unit_from is None else unit_from
    arrays = (array(p), array(grad), *moments, array(idle), unit_from, step, lazy, numbers)
    share(loops.adam_rows, len(p), *arrays)


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


def select(
    products: Float[Tensor, "batch d_sae"], b: Float[Tensor, "members d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Each row's k largest of `relu(products + b)` without sorting, and their latents.

    Rows are dealt out evenly over the members, in order.
    """
    values = torch.empty(len(products), k)
    indices = torch.empty(len(products), k, dtype=torch.long)
    share(loops.select, len(products), array(products), array(b), k, array(values), array(indices))
    return values, indices


def weighted_rows(
    weights: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "batch d"]:
    """`sum_k weights[b, k] * rows[indices[b, k]]`."""
    out = torch.empty(len(weights), rows.shape[1])
    arrays = (array(weights), array(indices), array(rows), array(out))
    share(loops.weighted_rows, len(weights), *arrays)
    return out


def row_products(
    x: Float[Tensor, "batch d"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "batch k"]:
    """`x[b] . rows[indices[b, k]]`."""
    out = torch.empty(indices.shape)
    starts = _even(indices)
    arrays = (array(x), array(indices).reshape(-1), starts, array(rows), array(out).reshape(-1))
    share(loops.row_products, len(x), *arrays)
    return out


def reconstruct(
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    W_dec: Float[Tensor, "n d"],
    z: Float[Tensor, "batch d"],
    b_dec: Float[Tensor, "members d"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch d"], Float[Tensor, "batch k"]]:
    """Sum of squares and residual of each row, rows dealt out evenly over the members, in order; and the
    residual's products with the rows of W_dec in use."""
    pairs = (array(values).reshape(-1), array(indices).reshape(-1), _even(indices))
    squares, residual, products = reconstructed(*pairs, W_dec, z, b_dec)
    return squares, residual, products.view_as(values)


def latent_rows(
    weights: Float[Tensor, "batch k"],
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    x: Float[Tensor, "batch d"],
    n_latents: int,
) -> Float[Tensor, "n_latents d"]:
    """`sum of weights[b, k] * x[b]` over the pairs with `indices[b, k] = i` and a value other than 0."""
    pairs = (array(values).reshape(-1), array(indices).reshape(-1), _even(indices))
    starts, row, place = loops.by_latent(*pairs, n_latents)
    out = torch.empty(n_latents, x.shape[1])
    share(loops.sum_rows, n_latents, array(weights).reshape(-1)[place], starts, row, array(x), array(out))
    return out


def _even(indices: Int[Tensor, "batch k"]) -> np.ndarray:
    """Where each row's pairs start, and where the last one's end."""
    return np.arange(len(indices) + 1) * indices.shape[1]
