# a launch turns constants into constexpr
# pyright: reportArgumentType=false
"""Sparse decoding, its error, and the error's slope along every row in use, in one pass over those rows."""

from __future__ import annotations

import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.numerics.kernels.triton_launch import kernel, launch
from thoughtlens.numerics.kernels.triton_rows import row_products, weighted_rows

TILE = 1 << 12
"""Numbers that a program holds of the rows in use."""
MOST = 256
"""Latents a row up to which they are decoded in one pass."""


def reconstruct(
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    W_dec: Float[Tensor, "n d"],
    z: Float[Tensor, "batch d"],
    b_dec: Float[Tensor, "members d"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch d"], Float[Tensor, "batch k"]]:
    """Sum of squares and residual of each row, rows dealt out evenly over the members, in order; and the
    residual's products with the rows of W_dec in use."""
    (n, k), width = values.shape, z.shape[1]
    if k > MOST:
        decoded = weighted_rows(values, indices, W_dec).view(len(b_dec), -1, width)
        residual = (z.view_as(decoded) - decoded - b_dec[:, None]).view_as(z)
        return residual.square().sum(1), residual, row_products(residual, indices, W_dec)
    squares, residual, products = z.new_empty(n), z.new_empty(n, width), z.new_empty(n, k)
    arrays = (t.contiguous() for t in (values, indices, W_dec, z, b_dec))
    kept = triton.next_power_of_2(k)
    launch(
        _reconstruct, n, *arrays, squares, residual, products, width, k, n // len(b_dec),
        KEPT=kept, BLOCK=max(32, min(512, TILE // kept, triton.next_power_of_2(width))), num_warps=4,
    )  # fmt: skip
    return squares, residual, products


@kernel
def _reconstruct(
    values, indices, rows, z, bias, squares, residual, products, width, k, per_member,
    KEPT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, KEPT)
    weight = tl.load(values + b * k + j, mask=j < k, other=0.0)
    row = tl.load(indices + b * k + j, mask=j < k, other=0).to(tl.int64)
    product = tl.zeros((KEPT, BLOCK), tl.float32)
    square = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < width
        read = (j < k)[:, None] & inside[None, :]
        w = tl.load(rows + row[:, None] * width + column[None, :], mask=read, other=0.0)
        left = tl.load(z + b * width + column, mask=inside, other=0.0)
        left -= tl.load(bias + b // per_member * width + column, mask=inside, other=0.0)
        left -= tl.sum(weight[:, None] * w, axis=0)
        tl.store(residual + b * width + column, left, mask=inside)
        product += left[None, :] * w
        square += left * left
    tl.store(products + b * k + j, tl.sum(product, axis=1), mask=j < k)
    tl.store(squares + b, tl.sum(square, axis=0))
