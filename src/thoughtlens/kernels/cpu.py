"""Kernels for float32 weights on a CPU: products by torch, everything sparse by the loops of `loops.py`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.kernels import loops, reference
from thoughtlens.kernels.autograd import Decode, EncodeTopK, TopK
from thoughtlens.kernels.reference import AdamState
from thoughtlens.kernels.threads import share

OPS = sys.modules[__name__]


def encode_topk(
    z: Float[Tensor, "*members batch d_in"],
    W: Float[Tensor, "*members d_in d_sae"],
    b: Float[Tensor, "*members d_sae"],
    k: int,
    dtype: torch.dtype,
    centre: Float[Tensor, "*members d_in"] | None = None,
) -> tuple[
    Float[Tensor, "*members batch k"], Int[Tensor, "*members batch k"], Float[Tensor, "*members batch d_sae"]
]:
    """See `reference.encode_topk`."""
    return EncodeTopK.apply(z, centre, W, b, k, dtype, OPS)


def encode_relu(
    z: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "batch d_sae"], Float[Tensor, " d_sae"], Int[Tensor, " d_sae"]]:
    """See `reference.encode_relu`."""
    return EncodeReLU.apply(z, centre, W, b, dtype)


def decode(
    values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "batch d_out"]:
    """See `reference.decode`."""
    return Decode.apply(values, indices, W_dec, OPS)


def topk(
    pre_acts: Float[Tensor, "batch d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """See `reference.topk`."""
    return TopK.apply(pre_acts, k, OPS)


def grad_square(
    p: Float[Tensor, "n d"], grad: Float[Tensor, "n d"], idle: Bool[Tensor, " n"], unit_from: int
) -> Float[Tensor, ""]:
    """See `reference.grad_square`; summed in float64 over rows."""
    squares = torch.empty(len(p))
    arrays = (_array(p), _array(grad), _array(idle), unit_from, _array(squares))
    share(loops.grad_squares, len(p), *arrays)
    return squares.sum(dtype=torch.float64).float()


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
    moments = (_array(state.exp_avg), _array(state.exp_avg_sq), _array(state.last))
    unit_from = len(p) if unit_from is None else unit_from
    arrays = (_array(p), _array(grad), *moments, _array(idle), unit_from, step, lazy, numbers)
    share(loops.adam_rows, len(p), *arrays)


class EncodeReLU(torch.autograd.Function):
    """Bias, ReLU, sums and counts in one pass over the products; as few passes back."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, centre: Tensor | None, W: Tensor, b: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """acts, their sums and counts over rows."""
        centred = (z if centre is None else z - centre).to(dtype)
        acts = centred @ W.to(dtype)
        totals, counts = torch.empty_like(b), torch.empty(len(b), dtype=torch.long)
        share(loops.relu_bias, len(b), _array(acts), _array(b), _array(totals), _array(counts))
        ctx.save_for_backward(centred, W, acts)
        ctx.mark_non_differentiable(counts)
        ctx.set_materialize_grads(False)
        return acts, totals, counts

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor | None, totals_grad: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        """Gradients in the centre, W and b."""
        centred, W, acts = ctx.saved_tensors
        grad = torch.zeros_like(acts) if grad is None else grad
        shift = W.new_zeros(W.shape[1]) if totals_grad is None else totals_grad
        pre_grad, b_grad = torch.empty_like(acts), torch.empty_like(shift)
        arrays = (_array(t) for t in (grad, acts, shift, pre_grad, b_grad))
        share(loops.relu_backward, len(shift), *arrays)
        W_grad = (pre_grad.T @ centred).to(W.dtype).T
        centre_grad = -(W @ b_grad) if ctx.needs_input_grad[1] else None
        return None, centre_grad, W_grad, b_grad, None


def select(
    products: Float[Tensor, "batch d_sae"], b: Float[Tensor, "members d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Each row's k largest of `relu(products + b)` without sorting, and their latents.

    Rows are dealt out evenly over the members, in order.
    """
    values = torch.empty(len(products), k)
    indices = torch.empty(len(products), k, dtype=torch.long)
    share(loops.select, len(products), _array(products), _array(b), k, _array(values), _array(indices))
    return values, indices


def weighted_rows(
    weights: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "batch d"]:
    """`sum_k weights[b, k] * rows[indices[b, k]]`."""
    out = torch.empty(len(weights), rows.shape[1])
    arrays = (_array(weights), _array(indices), _array(rows), _array(out))
    share(loops.weighted_rows, len(weights), *arrays)
    return out


def row_products(
    x: Float[Tensor, "batch d"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "batch k"]:
    """`x[b] . rows[indices[b, k]]`."""
    out = torch.empty(indices.shape)
    share(loops.row_products, len(x), _array(x), _array(indices), _array(rows), _array(out))
    return out


def latent_rows(
    weights: Float[Tensor, "batch k"],
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    x: Float[Tensor, "batch d"],
    n_latents: int,
) -> Float[Tensor, "n_latents d"]:
    """`sum of weights[b, k] * x[b]` over the pairs with `indices[b, k] = i` and a value other than 0."""
    starts, row, place = loops.by_latent(_array(values), _array(indices), n_latents)
    out = torch.empty(n_latents, x.shape[1])
    weight = _array(weights).reshape(-1)[place]
    share(loops.latent_rows, n_latents, weight, starts, row, _array(x), _array(out))
    return out


def _array(t: Tensor) -> np.ndarray:
    """The same memory as a C-contiguous array; a copy where it is not contiguous. bfloat16 as its bits."""
    t = t.detach().contiguous()
    return t.view(torch.int16).numpy().view(np.uint16) if t.dtype == torch.bfloat16 else t.numpy()
