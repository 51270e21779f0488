"""The largest activations of a whole batch on a GPU, from products in their own dtype, and gradients."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.numerics.kernels.triton_relu import gradients
from thoughtlens.numerics.kernels.triton_select import COLUMNS, group_maxima


class EncodeBatchTopK(torch.autograd.Function):
    """`batch_topk(x @ W + b, k)` in the dtype of x, which is `z - centre`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, centre: Tensor | None, W: Tensor, b: Tensor, k: int) -> Tensor:
        """The activations."""
        acts = batch_largest(x @ W.to(x.dtype), b, k)
        ctx.save_for_backward(x, W, acts)
        return acts

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients in the centre, W and b."""
        x, W, acts = ctx.saved_tensors
        return None, *gradients(x, W, acts, grad, W.new_zeros(()), ctx.needs_input_grad[1]), None


def batch_largest(
    products: Float[Tensor, "batch d_sae"], b: Float[Tensor, " d_sae"], k: int
) -> Float[Tensor, "batch d_sae"]:
    """All but the `k * batch` largest of `relu(products + b)` set to 0.

    As in `triton_select`, they lie in as many groups of neighbouring columns: those with the largest maxima.
    """
    (n, width), n_kept = products.shape, k * len(products)
    size = min(COLUMNS, 1 << ((width // k).bit_length() - 1) // 2)
    maxima = group_maxima(products, b[None].contiguous(), size)
    groups = maxima.flatten().topk(n_kept, sorted=False).indices
    row, group = groups // maxima.shape[1], groups % maxima.shape[1]
    column = group[:, None] * size + torch.arange(size, device=b.device)
    place = row[:, None] * width + column.clamp_max(width - 1)
    keys = _keys(products.view(-1)[place].to(b.dtype) + b[column.clamp_max(width - 1)])
    keys = torch.where(column < width, keys, -1).flatten()
    largest, found = keys.topk(n_kept, sorted=False)
    values = largest.view(torch.float32).to(products.dtype)
    return torch.zeros_like(products).view(-1).scatter_(0, place.flatten()[found], values).view(n, width)


def _keys(x: Float[Tensor, "n size"]) -> Int[Tensor, "n size"]:
    """Bits that have the order of max(x, 0); NaN above all."""
    return torch.where(x.isnan(), torch.nan, x.relu()).view(torch.int32)
