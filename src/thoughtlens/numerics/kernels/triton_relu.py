# a launch turns constants into constexpr
# pyright: reportArgumentType=false
"""Bias, ReLU, sums and counts in one pass over the encoder's products, and as few passes back, on a GPU."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from thoughtlens.numerics.kernels.triton_launch import kernel, launch

BLOCK, ROWS = 512, 64
"""Columns, and rows one after another, of a program."""


class EncodeReLU(torch.autograd.Function):
    """`relu(x @ W + b)` in the dtype of x, with each latent's sum and count; x is `z - centre`.

    The gradient in W stays in that dtype, as in all kernels: widened it would only be larger to read.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, centre: Tensor | None, W: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """acts, their sums and counts over rows."""
        acts = x @ W.to(x.dtype)
        (n, width), blocks, strips = (
            acts.shape,
            triton.cdiv(acts.shape[1], BLOCK),
            triton.cdiv(len(acts), ROWS),
        )
        sums, counts = b.new_empty(strips, width), b.new_empty(strips, width, dtype=torch.int32)
        arrays = (acts, b.contiguous(), sums, counts)
        launch(_relu_bias, strips * blocks, *arrays, n, width, blocks, **_shape())
        ctx.save_for_backward(x, W, acts)
        ctx.mark_non_differentiable(counts := counts.sum(0))
        ctx.set_materialize_grads(False)
        return acts, sums.sum(0), counts

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor | None, sums_grad: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        """Gradients in the centre, W and b."""
        x, W, acts = ctx.saved_tensors
        shift = W.new_zeros(()) if sums_grad is None else sums_grad
        return None, *gradients(x, W, acts, grad, shift, ctx.needs_input_grad[1])


def gradients(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in d_sae"],
    acts: Float[Tensor, "batch d_sae"],
    grad: Float[Tensor, "batch d_sae"] | None,
    shift: Float[Tensor, ...],
    centred: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients in the centre, W and b where that in all activations that are not 0 is `grad + shift`."""
    grad = torch.zeros_like(acts) if grad is None else grad.contiguous()
    (n, width), blocks, strips = acts.shape, triton.cdiv(acts.shape[1], BLOCK), triton.cdiv(len(acts), ROWS)
    shift = shift.expand(width).contiguous()
    pre_grad, sums = torch.empty_like(acts), shift.new_empty(strips, width)
    arrays = (grad, acts, shift, pre_grad, sums)
    launch(_relu_backward, strips * blocks, *arrays, n, width, blocks, **_shape())
    b_grad = sums.sum(0)
    return -(W @ b_grad) if centred else None, (pre_grad.T @ x).T, b_grad


def _shape() -> dict[str, int]:
    return {"ROWS": ROWS, "BLOCK": BLOCK, "num_warps": 2}


@kernel
def _relu_bias(acts, bias, sums, counts, n, width, blocks, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Some rows and columns of the products become `relu(products + bias)`, with sums and counts."""
    strip, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    shift = tl.load(bias + column, mask=inside, other=0.0)
    total, count = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.int32)
    for i in range(ROWS):
        row = strip * ROWS + i
        at, there = acts + row * width + column, column < tl.where(row < n, width, 0)
        x = tl.load(at, mask=there, other=0.0).to(tl.float32) + shift
        act = tl.where(x <= 0, 0.0, x).to(acts.dtype.element_ty)
        tl.store(at, act, mask=there)
        act = tl.where(there, act.to(tl.float32), 0.0)
        total += act
        count += (act != 0).to(tl.int32)
    tl.store(sums + strip * width + column, total, mask=inside)
    tl.store(counts + strip * width + column, count, mask=inside)


@kernel
def _relu_backward(grads, acts, shift, out, sums, n, width, blocks, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """`grads + shift` where a latent fires, else 0, with the sums of some rows."""
    strip, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    mine = tl.load(shift + column, mask=inside, other=0.0)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(ROWS):
        row = strip * ROWS + i
        at, there = row * width + column, column < tl.where(row < n, width, 0)
        fires = tl.load(acts + at, mask=there, other=0.0) != 0
        x = tl.load(grads + at, mask=there & fires, other=0.0).to(tl.float32) + mine
        x = tl.where(fires, x, 0.0)
        tl.store(out + at, x.to(out.dtype.element_ty), mask=there)
        total += x
    tl.store(sums + strip * width + column, total, mask=inside)
