# a launch turns constants into constexpr
# pyright: reportArgumentType=false
"""Kernels for float32 weights on a GPU: products and selection by torch, everything sparse by Triton.

Also run under Triton's interpreter on a CPU (`TRITON_INTERPRET=1`), where tests compare them.
"""

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.kernels import reference
from thoughtlens.kernels.autograd import Decode, EncodeTopK, SquaredError
from thoughtlens.kernels.reference import decode_ragged, encode_batchtopk, encode_relu, topk
from thoughtlens.kernels.triton_adam import adam_rows, grad_square

__all__ = [
    "adam_rows",
    "decode",
    "decode_ragged",
    "encode_batchtopk",
    "encode_relu",
    "encode_topk",
    "grad_square",
    "squared_error",
    "topk",
]

OPS = sys.modules[__name__]
BLOCK = 256
"""Entries of a row that a program works on."""


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


def decode(
    values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "batch d_out"]:
    """See `reference.decode`."""
    return Decode.apply(values, indices, W_dec, OPS)


def squared_error(
    z: Float[Tensor, "batch d_out"], decoded: Float[Tensor, "batch d_out"], b_dec: Float[Tensor, " d_out"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_out"]]:
    """See `reference.squared_error`."""
    return SquaredError.apply(z, decoded, b_dec)


def select(
    products: Float[Tensor, "batch d_sae"], b: Float[Tensor, "members d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Each row's k largest of `relu(products + b)`, rows dealt out evenly over the members, in order."""
    pre_acts = products.to(b.dtype).view(len(b), -1, b.shape[1]) + b[:, None]
    return reference.topk(pre_acts.flatten(0, 1), k)


def weighted_rows(
    weights: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "batch d"]:
    """`sum_k weights[b, k] * rows[indices[b, k]]`."""
    batch, k = weights.shape
    starts = torch.arange(0, (batch + 1) * k, k, device=weights.device)
    return _sums(weights.flatten(), indices.flatten(), starts, rows)


def latent_rows(
    weights: Float[Tensor, "batch k"],
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    x: Float[Tensor, "batch d"],
    n_latents: int,
) -> Float[Tensor, "n_latents d"]:
    """`sum of weights[b, k] * x[b]` over the pairs with `indices[b, k] = i` and a value other than 0."""
    used = (values.flatten() != 0).nonzero().squeeze(1)
    latents, order = indices.flatten()[used].sort(stable=True)
    place = used[order]
    bounds = torch.arange(n_latents + 1, device=latents.device)
    starts = torch.searchsorted(latents, bounds)
    return _sums(weights.flatten()[place], place // weights.shape[1], starts, x)


def row_products(
    x: Float[Tensor, "batch d"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "batch k"]:
    """`x[b] . rows[indices[b, k]]`."""
    x, indices, rows = x.contiguous(), indices.contiguous(), rows.contiguous()
    out = x.new_empty(indices.shape)
    if out.numel():
        _row_products[(len(x),)](x, indices, rows, out, x.shape[1], indices.shape[1], BLOCK=BLOCK)
    return out


def _sums(weights: Tensor, used: Tensor, starts: Tensor, rows: Tensor) -> Tensor:
    """Row i: the sum over p from `starts[i]` to `starts[i + 1]` of `weights[p] * rows[used[p]]`."""
    weights, used, rows = weights.contiguous(), used.contiguous(), rows.contiguous()
    n, width = len(starts) - 1, rows.shape[1]
    out = rows.new_empty(n, width)
    if out.numel():
        grid = (n, triton.cdiv(width, BLOCK))
        _weighted_sums[grid](weights, used, starts, rows, out, width, BLOCK=BLOCK)
    return out


@triton.jit
def _weighted_sums(weights, used, starts, rows, out, width, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    total = tl.zeros((BLOCK,), tl.float32)
    first, last = tl.load(starts + i), tl.load(starts + i + 1)
    for p in range(first, last):
        row = tl.load(used + p).to(tl.int64)
        total += tl.load(weights + p) * tl.load(rows + row * width + column, mask=inside, other=0.0)
    tl.store(out + i * width + column, total, mask=inside)


@triton.jit
def _row_products(x, indices, rows, out, width, k, BLOCK: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    for j in range(0, k):
        row = tl.load(indices + b * k + j).to(tl.int64)
        total = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, width, BLOCK):
            column = first + tl.arange(0, BLOCK)
            inside = column < width
            mine = tl.load(x + b * width + column, mask=inside, other=0.0)
            total += mine * tl.load(rows + row * width + column, mask=inside, other=0.0)
        tl.store(out + b * k + j, tl.sum(total, axis=0))
