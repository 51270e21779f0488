"""The loops behind `cpu.py`, compiled by numba: each does rows `lo` to `hi` of its result, without the GIL.

Whatever a row of a result needs is computed by one call and in one order, so that results do not depend on
how rows are dealt out over threads. bfloat16 comes as its bits, in uint16.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call for what it is called with, and keep that on disk.

    Sums may be reordered to fill vector registers; infinities and NaN keep their meaning.
    """
    plain = inspect.unwrap(function)  # without the shape checks that tests wrap around every function
    return njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})(plain)


LANES_PER_K, DEEPEST = 4, 128
"""Lanes that a row is dealt out over for the search of its k largest, per k, and entries of a lane at most."""


@intrinsic
def _from_bits(typingctx, bits):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


def _number(x):
    """The float32 that a float32, or the bits of a bfloat16, stand for."""


@overload(_number, inline="always")
def _number_of(x):
    if x == types.uint16:
        return lambda x: _from_bits(np.uint32(x) << np.uint32(16))
    return lambda x: x


@compiled
def select(products, bias, k, values, indices, lo, hi):
    """Each row's k largest of `relu(products + bias)` and their columns, padded with 0 at column 0.

    The row is dealt out over lanes; the kth largest of the lanes' maxima bounds the kth largest of the row
    from below, so that only lanes that reach it are looked at one by one.
    """
    width = products.shape[1]
    depth = min(DEEPEST, max(1, width // (LANES_PER_K * k)))
    lanes = (width + depth - 1) // depth
    row, tops, keys = (
        np.empty((depth, lanes), np.float32),
        np.empty(lanes, np.float32),
        np.empty(lanes, np.float32),
    )
    row[depth - 1] = 0
    found, where = np.empty(width, np.float32), np.empty(width, np.int64)
    for b in range(lo, hi):
        tops[:] = 0
        for r in range(depth):
            first = r * lanes
            for c in range(min(lanes, width - first)):
                x = _number(products[b, first + c]) + bias[first + c]
                x = x if x == x else np.float32(np.inf)
                row[r, c] = x
                tops[c] = x if x > tops[c] else tops[c]
        keys[:] = tops
        least = _kth_largest(keys, lanes, k) if lanes >= k else np.float32(0)
        n = 0
        for c in range(lanes):
            if tops[c] >= least and tops[c] > 0:
                for r in range(depth):
                    if row[r, c] >= least and row[r, c] > 0:
                        found[n], where[n] = row[r, c], r * lanes + c
                        n += 1
        if n > k:
            _largest_first(found, where, n, k)
        for j in range(k):
            values[b, j] = found[j] if j < n else 0
            indices[b, j] = where[j] if j < n else 0


@compiled
def _kth_largest(keys, n, k):
    """Hoare's selection; `keys` is reordered."""
    left, right = 0, n - 1
    while left < right:
        pivot, i, j = keys[(left + right) // 2], left, right
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            right = j
        elif k - 1 >= i:
            left = i
        else:
            break
    return keys[k - 1]


@compiled
def _largest_first(keys, where, n, k):
    """Hoare's selection on pairs: afterwards the k largest keys come first."""
    left, right = 0, n - 1
    while left < right:
        pivot, i, j = keys[(left + right) // 2], left, right
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                where[i], where[j] = where[j], where[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            right = j
        elif k - 1 >= i:
            left = i
        else:
            break


@compiled
def weighted_rows(weights, indices, rows, out, lo, hi):
    """`out[b] = sum_j weights[b, j] * rows[indices[b, j]]`; weights of 0 are skipped."""
    k, width = weights.shape[1], rows.shape[1]
    used, weight = np.empty(k, np.int64), np.empty(k, np.float32)
    for b in range(lo, hi):
        n = 0
        for j in range(k):
            if weights[b, j] != 0:
                used[n], weight[n] = indices[b, j], weights[b, j]
                n += 1
        _sum_rows(used, weight, 0, n, rows, out[b])


@compiled
def _sum_rows(used, weight, first, last, rows, out):
    """`out = sum_p weight[p] * rows[used[p]]` for p from `first` to `last`, four rows at a time."""
    width = rows.shape[1]
    out[:] = 0
    p = first
    while p + 4 <= last:
        r0, r1, r2, r3 = rows[used[p]], rows[used[p + 1]], rows[used[p + 2]], rows[used[p + 3]]
        w0, w1, w2, w3 = weight[p], weight[p + 1], weight[p + 2], weight[p + 3]
        for d in range(width):
            out[d] += w0 * r0[d] + w1 * r1[d] + w2 * r2[d] + w3 * r3[d]
        p += 4
    while p < last:
        r0, w0 = rows[used[p]], weight[p]
        for d in range(width):
            out[d] += w0 * r0[d]
        p += 1


@compiled
def row_products(x, indices, rows, out, lo, hi):
    """`out[b, j] = x[b] . rows[indices[b, j]]`."""
    for b in range(lo, hi):
        for j in range(indices.shape[1]):
            row, total = rows[indices[b, j]], np.float32(0)
            for d in range(rows.shape[1]):
                total += x[b, d] * row[d]
            out[b, j] = total


@compiled
def by_latent(values, indices, n_latents):
    """The pairs with a value other than 0, in the order of their latents.

    Returns:
        `starts [n_latents + 1]`, and of each pair its row and its place in the flattened `values`.
    """
    starts = np.zeros(n_latents + 1, np.int64)
    flat, latent = values.reshape(-1), indices.reshape(-1)
    for p in range(flat.size):
        if flat[p] != 0:
            starts[latent[p] + 1] += 1
    for i in range(n_latents):
        starts[i + 1] += starts[i]
    free, k = starts[:-1].copy(), values.shape[1]
    row, place = np.empty(starts[-1], np.int64), np.empty(starts[-1], np.int64)
    for p in range(flat.size):
        if flat[p] != 0:
            q = free[latent[p]]
            row[q], place[q] = p // k, p
            free[latent[p]] += 1
    return starts, row, place


@compiled
def latent_rows(weights, starts, row, rows, out, lo, hi):
    """`out[i] = sum over the pairs p of latent i of weights[p] * rows[row[p]]`."""
    for i in range(lo, hi):
        _sum_rows(row, weights, starts[i], starts[i + 1], rows, out[i])
