# a launch turns constants into constexpr
# pyright: reportArgumentType=false
"""Sums and products of the rows in use, on a GPU. Every sum has one order: results do not vary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.numerics.kernels.triton_launch import kernel, launch

PAIRS = 16
"""Rows that a program sums at a time."""
BLOCKS = (512, 256, 128)
"""Entries of a row that a program may work on."""


@dataclass(frozen=True)
class ByLatent:
    """The pairs of `[batch, k]` with a value other than 0, in the order of their latents."""

    pairs: Int[Tensor, " n"]
    """Places in what is flattened; those of latent i stand from `starts[i]` to `starts[i + 1]`."""
    starts: Int[Tensor, " n_latents_plus_1"]


def by_latent(values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], n_latents: int) -> ByLatent:
    """The pairs of each latent, in the order of their rows; the device is not waited for."""
    latents = torch.where(values != 0, indices, n_latents).flatten().int()
    latents, pairs = latents.sort(stable=True)
    bounds = torch.arange(n_latents + 1, dtype=torch.int32, device=latents.device)
    return ByLatent(pairs, torch.searchsorted(latents, bounds, out_int32=True))


def latent_sums(
    weights: Float[Tensor, "batch k"], pairs: ByLatent, x: Float[Tensor, "batch d"]
) -> tuple[Float[Tensor, "n_latents d"], Float[Tensor, " n_latents"]]:
    """Over each latent's pairs, the sum of `weights[b, k] * x[b]`, in the dtype of x, and of the weights."""
    n, width = len(pairs.starts) - 1, x.shape[1]
    weights, x = weights.contiguous(), x.contiguous()
    out, totals = x.new_empty(n, width), weights.new_empty(n)
    shape = _shape(width)
    launch(
        _sums, n * triton.cdiv(width, shape["BLOCK"]), weights, pairs.pairs, pairs.starts, x, out, totals,
        n, width, weights.shape[1], BY_LATENT=True, **shape,
    )  # fmt: skip
    return out, totals


def latent_rows(
    weights: Float[Tensor, "batch k"],
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    x: Float[Tensor, "batch d"],
    n_latents: int,
) -> Float[Tensor, "n_latents d"]:
    """`sum of weights[b, k] * x[b]` over the pairs with `indices[b, k] = i` and a value other than 0."""
    return latent_sums(weights, by_latent(values, indices, n_latents), x)[0]


def weighted_rows(
    weights: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "batch d"]:
    """`sum_k weights[b, k] * rows[indices[b, k]]`; rows with a weight of 0 are not read."""
    (n, k), width = weights.shape, rows.shape[1]
    weights, indices, rows = weights.contiguous(), indices.contiguous(), rows.contiguous()
    out = weights.new_empty(n, width)
    shape = _shape(width)
    programs = n * triton.cdiv(width, shape["BLOCK"])
    launch(_sums, programs, weights, indices, indices, rows, out, out, n, width, k, BY_LATENT=False, **shape)
    return out


def row_products(
    x: Float[Tensor, "batch d"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "batch k"]:
    """`x[b] . rows[indices[b, k]]`."""
    x, indices, rows = x.contiguous(), indices.contiguous(), rows.contiguous()
    k, width = indices.shape[1], x.shape[1]
    out = x.new_empty(indices.shape)
    chunks = triton.cdiv(k, PAIRS)
    launch(_row_products, len(x) * chunks, x, indices, rows, out, width, k, chunks, **_shape(width))
    return out


def _shape(width: int) -> dict[str, int]:
    """Entries of a row and rows that a program works on at a time, and the warps that share them."""
    block = min(BLOCKS, key=lambda block: triton.cdiv(width, block) * block)
    return {"BLOCK": block, "PAIRS": PAIRS, "num_warps": block // 128}


@kernel
def _sums(
    weights, pairs, starts, rows, out, totals, n, width, k,
    BY_LATENT: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of row i of the result, one block of columns; the programs of one block stand together."""
    i, block = (tl.program_id(0) % n).to(tl.int64), tl.program_id(0) // n
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    if BY_LATENT:
        first, last = tl.load(starts + i), tl.load(starts + i + 1)
    else:
        first, last = i * k, i * k + k
    total = tl.zeros((BLOCK,), tl.float32)
    weight_sum = tl.zeros((PAIRS,), tl.float32)
    for p in range(first, last, PAIRS):
        place = p + tl.arange(0, PAIRS)
        there = place < last
        used = tl.load(pairs + place, mask=there, other=0).to(tl.int64)
        if BY_LATENT:
            place = used
            used = used // k
        weight = tl.load(weights + place, mask=there, other=0.0)
        read = (weight != 0)[:, None] & inside[None, :]
        row = tl.load(rows + used[:, None] * width + column[None, :], mask=read, other=0.0)
        total += tl.sum(weight[:, None] * row.to(tl.float32), axis=0)
        weight_sum += weight
    tl.store(out + i * width + column, total.to(out.dtype.element_ty), mask=inside)
    if BY_LATENT:
        tl.store(totals + i, tl.sum(weight_sum, axis=0), mask=block == 0)


@kernel
def _row_products(x, indices, rows, out, width, k, chunks, PAIRS: tl.constexpr, BLOCK: tl.constexpr):
    b, chunk = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks
    j = chunk * PAIRS + tl.arange(0, PAIRS)
    row = tl.load(indices + b * k + j, mask=j < k, other=0).to(tl.int64)
    total = tl.zeros((PAIRS, BLOCK), tl.float32)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < width
        mine = tl.load(x + b * width + column, mask=inside, other=0.0)
        read = (j < k)[:, None] & inside[None, :]
        total += mine[None, :] * tl.load(rows + row[:, None] * width + column[None, :], mask=read, other=0.0)
    tl.store(out + b * k + j, tl.sum(total, axis=1), mask=j < k)
