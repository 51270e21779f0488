# a launch turns constants into constexpr
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
"""The k largest of every row without sorting, on a GPU.

The k largest entries of a row lie in the k of its groups whose maxima are largest, whatever the groups. So
one pass over the row leaves the maxima of groups of neighbouring columns, of these the k largest are found,
and of the entries of their groups again: both fit the registers of one program.

Entries are compared as the bits of max(x, 0), which have its order; NaN comes above infinity.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.numerics.kernels import reference
from thoughtlens.numerics.kernels.triton_launch import kernel, launch

WIDEST = 1 << 14
"""Numbers among which a program finds the largest."""
WHOLE = 1 << 10
"""Columns of a row that is not divided into groups."""
COLUMNS, ROWS = 1 << 11, 8
"""Columns, and rows one after another, of a program that finds maxima."""


def select(
    products: Float[Tensor, "batch d_sae"], b: Float[Tensor, "members d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Each row's k largest of `relu(products + b)`, rows dealt out evenly over the members, in order.

    Padded with 0 on other latents where fewer than k are positive.
    """
    n, width = products.shape
    size = group_size(width, k)
    n_groups = -(-width // size)
    if max(size if n_groups == 1 else k * size, n_groups) > WIDEST:
        pre_acts = products.to(b.dtype).view(len(b), -1, width) + b[:, None]
        return reference.topk(pre_acts.flatten(0, 1), k)
    products, b = products.contiguous(), b.contiguous()
    values, indices = b.new_empty(n, k), products.new_empty(n, k, dtype=torch.long)
    groups = None
    if n_groups > 1:
        maxima = group_maxima(products, b, size)
        groups = products.new_empty(n, k, dtype=torch.int32)
        launch(_largest_groups, n, maxima, groups, n_groups, k, **_shape(n_groups))
    found = (values, indices, width, k, n // max(1, len(b)))
    launch(
        _largest, n, products, b, products if groups is None else groups, *found,
        SIZE=size, GROUPED=groups is not None, **_shape(width if groups is None else k * size),
    )  # fmt: skip
    return values, indices


def group_maxima(
    products: Float[Tensor, "batch d_sae"], b: Float[Tensor, "members d_sae"], size: int
) -> Int[Tensor, "batch n_groups"]:
    """The largest key of each group of so many columns of `products + b`."""
    n, width = products.shape
    per_member, n_groups = n // len(b), -(-width // size)
    maxima = products.new_empty(n, n_groups, dtype=torch.int32)
    blocks, strips = triton.cdiv(width, COLUMNS), triton.cdiv(per_member, ROWS)
    launch(
        _maxima, blocks * strips * len(b), products, b, maxima, width, n_groups, per_member, blocks, strips,
        SIZE=size, GROUPS=COLUMNS // size, ROWS=ROWS, num_warps=4,
    )  # fmt: skip
    return maxima


def group_size(width: int, k: int) -> int:
    """Columns of a group: a power of 2 with about as many groups as entries in k of them; or all columns."""
    if width <= max(WHOLE, 2 * k):
        return width
    size = 1 << max(1, ((width // k).bit_length() - 1) // 2)
    while width > WIDEST * size and size < COLUMNS:
        size *= 2
    return size


def _shape(n: int) -> dict[str, int]:
    """Numbers that a program holds, and the warps that share them."""
    block = int(triton.next_power_of_2(n))
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


@kernel
def _key(x):
    """Bits that have the order of max(x, 0); NaN above all."""
    positive = tl.where(x > 0, x, 0.0).to(tl.int32, bitcast=True)
    return tl.where(x == x, positive, 0x7FC00000)


@kernel
def _kept(keys, inside, k):
    """Which are the k largest, the first ones of equal ones, and the place of each among them."""
    keys = tl.where(inside, keys, -1)
    least = 0
    for i in tl.static_range(31):
        higher = least | (1 << (30 - i))
        least = tl.where(tl.sum((keys >= higher).to(tl.int32), axis=0) >= k, higher, least)
    above = (keys > least).to(tl.int32)
    level = (keys == least).to(tl.int32)
    missing = k - tl.sum(above, axis=0)
    kept = (above == 1) | ((level == 1) & (tl.cumsum(level, axis=0) <= missing))
    return kept, tl.cumsum(kept.to(tl.int32), axis=0) - 1


@kernel
def _maxima(
    products, bias, maxima, width, n_groups, per_member, blocks, strips,
    SIZE: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The largest key of each group of SIZE columns, over some rows of one member."""
    strip, member = tl.program_id(0) // blocks % strips, tl.program_id(0) // blocks // strips
    group = tl.program_id(0) % blocks * GROUPS + tl.arange(0, GROUPS)
    column = group[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    inside = column < width
    shift = tl.load(bias + member.to(tl.int64) * width + column, mask=inside, other=0.0)
    for i in range(strip * ROWS, min(strip * ROWS + ROWS, per_member)):
        row = member.to(tl.int64) * per_member + i
        x = tl.load(products + row * width + column, mask=inside, other=0.0).to(tl.float32) + shift
        key = tl.where(inside, _key(x), 0)
        tl.store(maxima + row * n_groups + group, tl.max(key, axis=1), mask=group < n_groups)


@kernel
def _largest_groups(maxima, groups, n_groups, k, BLOCK: tl.constexpr):
    """The k groups of a row whose maxima are largest."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, BLOCK)
    inside = group < n_groups
    keys = tl.load(maxima + row * n_groups + group, mask=inside, other=0)
    kept, place = _kept(keys, inside, k)
    tl.store(groups + row * k + place, group, mask=kept)


@kernel
def _largest(
    products, bias, groups, values, indices, width, k, per_member,
    SIZE: tl.constexpr, GROUPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The k largest entries of a row, of those in its groups or of all."""
    row = tl.program_id(0).to(tl.int64)
    entry = tl.arange(0, BLOCK)
    column = entry
    inside = entry < width
    if GROUPED:
        listed = entry < k * SIZE
        column = tl.load(groups + row * k + entry // SIZE, mask=listed, other=0) * SIZE + entry % SIZE
        inside = listed & (column < width)
    x = tl.load(products + row * width + column, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(bias + row // per_member * width + column, mask=inside, other=0.0)
    key = _key(x)
    kept, place = _kept(key, inside, k)
    tl.store(values + row * k + place, key.to(tl.float32, bitcast=True), mask=kept)
    tl.store(indices + row * k + place, column.to(tl.int64), mask=kept)
