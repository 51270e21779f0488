# a launch turns constants into constexpr
# pyright: reportArgumentType=false
"""Adam on a GPU: a row is read once, updated and normalised in registers, and written once."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, UInt8
from torch import Tensor

from thoughtlens.numerics.kernels import reference
from thoughtlens.numerics.kernels.triton_launch import kernel, launch

WIDEST = 1 << 14
"""Entries of a row that one program can hold; wider ones, biases above all, go to the reference."""


def adam_rows(p, grad, state, idle, *, lr, betas, eps, factor=1.0, unit_from=None, lazy=False):
    whole = all(t.is_contiguous() for t in (p, state.exp_avg, state.exp_avg_sq, state.last))
    if not whole or p.shape[1] > WIDEST:
        settings = {"lr": lr, "betas": betas, "eps": eps, "factor": factor}
        reference.adam_rows(p, grad, state, idle, unit_from=unit_from, lazy=lazy, **settings)
        return
    state.step.add_(1)
    step = int(state.step)
    decay = [(beta, math.log2(beta) if beta > 0 else 0.0, 1 - beta) for beta in betas]
    launch(
        _adam_row, len(p), p, grad.contiguous(), state.exp_avg, state.exp_avg_sq, state.last, _bytes(idle),
        len(p) if unit_from is None else unit_from, step,
        factor, lr / (1 - betas[0] ** step), 1 / math.sqrt(1 - betas[1] ** step), eps, *decay[0], *decay[1],
        p.shape[1], LAZY=lazy, **_shape(p.shape[1]),
    )  # fmt: skip


def grad_squares(p, grad, idle, unit_from):
    if p.shape[1] > WIDEST:
        return reference.grad_squares(p, grad, idle, unit_from)
    out = torch.empty(len(p), device=p.device)
    arrays = (p.contiguous(), grad.contiguous(), _bytes(idle))
    launch(_grad_squares, len(p), *arrays, out, unit_from, p.shape[1], **_shape(p.shape[1]))
    return out


def _bytes(idle: Bool[Tensor, " n"]) -> UInt8[Tensor, " n"]:
    return idle.contiguous().view(torch.uint8)


def _shape(width: int) -> dict[str, int]:
    """Entries that a program holds, and the warps that share them."""
    block = int(triton.next_power_of_2(width))
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 256))}


@kernel(do_not_specialize=["step", "unit_from"])
def _adam_row(
    p, grad, m, v, last, idle, unit_from, step, factor, lr, unroot, eps,
    beta1, log_beta1, gain1, beta2, log_beta2, gain2, width, LAZY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    before, read = tl.load(last + i), tl.where(tl.load(idle + i) == 0, width, 0)
    moved = read if LAZY else tl.where(before > 0, width, read)
    column = tl.arange(0, BLOCK)
    at, inside, unit = i * width + column, column < moved, i >= unit_from
    w = tl.load(p + at, mask=inside, other=0.0)
    g = tl.load(grad + at, mask=column < read, other=0.0).to(tl.float32)
    old_m, old_v = tl.load(m + at, mask=inside, other=0.0), tl.load(v + at, mask=inside, other=0.0)
    g = factor * (g - tl.where(unit, tl.sum(g * w, axis=0), 0.0) * w)
    missed = (step - 1 - before).to(tl.float32)
    new_m = beta1 * tl.exp2(missed * log_beta1) * old_m + gain1 * g
    new_v = beta2 * tl.exp2(missed * log_beta2) * old_v + gain2 * g * g
    w -= lr * new_m / (tl.sqrt(new_v) * unroot + eps)
    length = tl.sqrt(tl.sum(w * w, axis=0))
    w = tl.where(unit, w / tl.maximum(length, 1e-12), w)
    tl.store(p + at, w, mask=inside)
    tl.store(m + at, new_m, mask=inside)
    tl.store(v + at, new_v, mask=inside)
    tl.store(last + i, tl.where(moved > 0, step, before))


@kernel
def _grad_squares(p, grad, idle, out, unit_from, width, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    read = tl.where(tl.load(idle + i) == 0, width, 0)
    column = tl.arange(0, BLOCK)
    at = i * width + column
    g = tl.load(grad + at, mask=column < read, other=0.0).to(tl.float32)
    w = tl.load(p + at, mask=column < tl.where(i >= unit_from, read, 0), other=0.0)
    g -= tl.sum(g * w, axis=0) * w
    tl.store(out + i, tl.sum(g * g, axis=0))
