"""Gradients of kernels, written once for every device.

`ops` is the module with the device's `select`, `weighted_rows`, `row_products`, `reconstruct`, `latent_rows`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class TopK(torch.autograd.Function):
    """Gradients flow to the entries that were kept."""

    @staticmethod
    def forward(ctx: Any, pre_acts: Tensor, k: int, ops: Any) -> tuple[Tensor, ...]:
        """Values and indices."""
        values, indices = ops.select(pre_acts, pre_acts.new_zeros(1, pre_acts.shape[1]), k)
        ctx.save_for_backward(values, indices)
        ctx.shape = pre_acts.shape
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradient in the pre-activations."""
        values, indices = ctx.saved_tensors
        kept = torch.where(values > 0, grad, 0)
        return kept.new_zeros(ctx.shape).scatter_add_(1, indices, kept), None, None


def dense_error(acts, W_dec, z, b_dec, dtype):
    return DenseError.apply(acts, W_dec, z, b_dec, dtype)


class DenseError(torch.autograd.Function):
    """The squared error of a dense product; its gradient in W_dec stays in the product's dtype."""

    @staticmethod
    def forward(
        ctx: Any, acts: Tensor, W_dec: Tensor, z: Tensor, b_dec: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """The sum, and the residual."""
        narrow, rows = acts.to(dtype), W_dec.to(dtype)
        residual = torch.sub(z, narrow @ rows).sub_(b_dec)
        ctx.acts_dtype = acts.dtype
        ctx.save_for_backward(narrow, rows, residual)
        ctx.mark_non_differentiable(residual)
        return torch.dot(residual.flatten(), residual.flatten()), residual

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients in acts, W_dec and b_dec."""
        acts, rows, residual = ctx.saved_tensors
        wide = residual * (-2 * grad)
        narrow = wide.to(acts.dtype)
        acts_grad = (narrow @ rows.T).to(ctx.acts_dtype) if ctx.needs_input_grad[0] else None
        W_grad = acts.T @ narrow if ctx.needs_input_grad[1] else None
        return acts_grad, W_grad, None, wide.sum(0), None


class DecodeError(torch.autograd.Function):
    """The squared error of `Decode`: the gradient in the values is known, up to a factor, with the error."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, indices: Tensor, W_dec: Tensor, z: Tensor, b_dec: Tensor, ops: Any
    ) -> tuple[Tensor, Tensor]:
        """The sum for each member, and the residual."""
        pairs, rows = (values.flatten(0, -2), indices.flatten(0, -2)), W_dec.flatten(0, -2)
        biases = b_dec.reshape(-1, b_dec.shape[-1])
        squares, residual, products = ops.reconstruct(*pairs, rows, z.flatten(0, -2), biases)
        ctx.ops, ctx.shape = ops, W_dec.shape
        ctx.save_for_backward(values, indices, residual, products)
        residual = residual.view_as(z)
        ctx.mark_non_differentiable(residual)
        return squares.view(z.shape[:-1]).sum(-1), residual

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients in values, W_dec and b_dec."""
        values, indices, residual, products = ctx.saved_tensors
        factor = -2 * grad[..., None, None]
        weights, pairs = (values * factor).flatten(0, -2), (values.flatten(0, -2), indices.flatten(0, -2))
        W_grad = ctx.ops.latent_rows(weights, *pairs, residual, ctx.shape[:-1].numel()).view(ctx.shape)
        b_grad = residual.view(*values.shape[:-1], -1).sum(-2) * factor[..., 0]
        return products.view_as(values) * factor, None, W_grad, None, b_grad, None


class Decode(torch.autograd.Function):
    """`sum_k values[b, k] * W_dec[indices[b, k]]`, and gradients of the rows in use."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, W_dec: Tensor, ops: Any) -> Tensor:
        """x_hat without its bias."""
        ctx.ops = ops
        ctx.save_for_backward(values, indices, W_dec)
        return ops.weighted_rows(values, indices, W_dec)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients in values and W_dec."""
        values, indices, W_dec = ctx.saved_tensors
        ops = ctx.ops
        values_grad = ops.row_products(grad, indices, W_dec) if ctx.needs_input_grad[0] else None
        W_grad = None
        if ctx.needs_input_grad[2]:
            W_grad = ops.latent_rows(values, values, indices, grad, len(W_dec))
        return values_grad, None, W_grad, None
