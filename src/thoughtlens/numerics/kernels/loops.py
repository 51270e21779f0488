# numba fills in the first argument of an intrinsic
# pyright: reportCallIssue=false
"""The loops behind `cpu.py`, compiled by numba: each does the rows of its `piece`, without the GIL.

Whatever a row of a result needs is computed by one call and in one order, so that results do not depend on
how rows are dealt out over threads. bfloat16 comes as its bits, in uint16.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload


def compiled(function: Callable[..., Any], fastmath: bool | set[str] = False) -> Any:
    """Compile at the first call for what it is called with, and keep that on disk.

    Numbers are computed in the order that is written. Where the compiler may choose, code that it has just
    made and code that it has read from disk can differ in the last digit.
    """
    plain = inspect.unwrap(function)  # without the shape checks that tests wrap around every function
    return njit(nogil=True, cache=True, error_model="numpy", fastmath=fastmath)(plain)


def compiled_sums(function: Callable[..., Any]) -> Any:
    """As `compiled`, for nothing but sums over a loop, which may be reordered to fill vector registers."""
    return compiled(function, {"contract", "reassoc", "nsz"})


TINY = np.float32(1e-35)
"""Moments below this become 0: numbers the processor would only handle slowly, which move no weight."""
SMALLEST = np.float32(1e-45)
"""What everything above 0 reaches."""
BLOCK = 32
"""Columns looked at together: most blocks hold nothing, and are left at once."""
STRIPE = 512
"""Columns summed at a time: their sums stay in the nearest cache."""
LANES_PER_K, DEEPEST = 8, 128
"""Lanes a row is dealt out over in the search of its k largest, per k; entries of a lane at most."""
MANY = 8
"""Latents too many from which on it is faster to part them than to drop the least one by one."""
HALVINGS = 10
"""Times that the range of the bound on the kth largest is halved."""


class Pairs(NamedTuple):
    """A number and what it belongs to, pair after pair; those of row b come from `starts[b]` to
    `starts[b + 1]`."""

    values: np.ndarray
    used: np.ndarray
    starts: np.ndarray


class Errors(NamedTuple):
    """What `reconstruct` finds."""

    residual: np.ndarray
    products: np.ndarray
    squares: np.ndarray


class Moments(NamedTuple):
    """`reference.AdamState` without its step."""

    m: np.ndarray
    v: np.ndarray
    last: np.ndarray


class AdamStep(NamedTuple):
    """The numbers of a step of Adam, the same for all rows."""

    step: int
    lazy: bool
    unit_from: int
    factor: float
    lr: float
    correction: float
    """1 - beta1^step."""
    root: float
    """sqrt(1 - beta2^step)."""
    beta1: float
    beta2: float
    eps: float


class AdamRow(NamedTuple):
    """The numbers of a step of Adam on one row, in float32."""

    keep1: np.float32
    keep2: np.float32
    gain1: np.float32
    gain2: np.float32
    factor: np.float32
    lr: np.float32
    unroot: np.float32
    eps: np.float32


@intrinsic
def _mul_add(typingctx, a, b, c):
    """`a * b + c`, rounded once where the processor can; never left to the compiler, which may fuse either
    product of a sum of two, and does so differently for code that it has just made and code read from disk.
    """

    def codegen(context, builder, signature, args):
        number = ir.FloatType()
        kind = ir.FunctionType(number, [number] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.f32"), args)

    return types.float32(types.float32, types.float32, types.float32), codegen


@intrinsic
def _from_bits(typingctx, bits):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


def _number(x: Any) -> Any:
    """The float32 that a float32, or the bits of a bfloat16, stand for."""


@overload(_number, inline="always")
def _number_of(x):
    if x == types.uint16:
        return lambda x: _from_bits(np.uint32(x) << np.uint32(16))
    return lambda x: x


@compiled
def select(products, bias, k, values, indices, piece):
    """Each row's k largest of `relu(products + bias)` and their columns, padded with 0 at column 0.

    `bias` has a row for each member; rows of `products` are dealt out evenly over them, in order.

    The row is dealt out over lanes. What k of the lanes' maxima reach bounds the kth largest of the row from
    below, so that only lanes that reach it are looked at one by one.
    """
    width = products.shape[1]
    depth = min(DEEPEST, max(1, width // (LANES_PER_K * k)))
    lanes = (width + depth - 1) // depth
    tops, reaching = np.empty(lanes, np.float32), np.empty(lanes + 1, np.int64)
    found, where = np.empty(width + 1, np.float32), np.empty(width + 1, np.int64)
    per_member = products.shape[0] // bias.shape[0]
    for b in range(piece.lo, piece.hi):
        row, mine = products[b], bias[b // per_member]
        tops[:] = 0
        for first in range(0, width, lanes):
            n = min(lanes, width - first)
            part, shift = row[first : first + n], mine[first : first + n]
            for c in range(n):
                x = _number(part[c]) + shift[c]
                x = x if x == x else np.float32(np.inf)
                tops[c] = x if x > tops[c] else tops[c]
        least = max(_reached_by(tops, k), SMALLEST)
        n_lanes = n = 0
        for c in range(lanes):  # no branch here or below: what does not reach it is overwritten
            reaching[n_lanes] = c
            n_lanes += np.int64(tops[c] >= least)
        for i in range(n_lanes):
            for column in range(reaching[i], width, lanes):
                x = _number(row[column]) + mine[column]
                x = x if x == x else np.float32(np.inf)
                found[n], where[n] = x, column
                n += np.int64(x >= least)
        if n > k + MANY:
            _largest_first(found, where, n, k)
            n = k
        while n > k:
            least_of, n = _least(found, n), n - 1
            found[least_of], where[least_of] = found[n], where[n]
        for j in range(k):
            values[b, j] = found[j] if j < n else 0
            indices[b, j] = where[j] if j < n else 0


@compiled
def _least(keys, n):
    """Where the least of the first n stands."""
    least = 0
    for j in range(1, n):
        least = j if keys[j] < keys[least] else least
    return least


@compiled
def _reached_by(tops, k):
    """A number that at least k of `tops`, none below 0, reach; near the largest such, or 0."""
    low, high = np.float32(0), np.float32(0)
    for c in range(tops.size):
        high = tops[c] if tops[c] > high else high
    for _ in range(HALVINGS):
        middle = np.float32(0.5) * (low + high)
        n = np.int32(0)
        for c in range(tops.size):
            n += np.int32(1) if tops[c] >= middle else np.int32(0)
        if n >= k:
            low = middle
        else:
            high = middle
        if n == k:
            break
    return low


@intrinsic
def _to_bits(typingctx, x):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@compiled
def _narrow(x):
    """The bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = _to_bits(x)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.uint16(rounded) if x == x else np.uint16(0x7FC0)


def _like(x, old):
    """A float32 as what stands in an array: itself, or the bits of the nearest bfloat16."""


@overload(_like, inline="always")
def _like_of(x, old):
    if old == types.uint16:
        return lambda x, old: _narrow(x)
    return lambda x, old: x


@compiled
def relu_bias(products, bias, totals, counts, piece):
    """The columns of `piece` become `relu(products + bias)`, with sum and count of each."""
    total, count = np.empty(STRIPE, np.float32), np.empty(STRIPE, np.float32)
    for first in range(piece.lo, piece.hi, STRIPE):
        last = min(first + STRIPE, piece.hi)
        total[:], count[:] = 0, 0
        for b in range(products.shape[0]):
            row, mine = products[b, first:last], bias[first:last]
            for j in range(last - first):
                x = _number(row[j]) + mine[j]
                row[j] = _like(x if not x <= 0 else np.float32(0), row[j])
                total[j] += _number(row[j])
                count[j] += np.float32(1) if _number(row[j]) != 0 else np.float32(0)
        totals[first:last] = total[: last - first]
        counts[first:last] = count[: last - first].astype(np.int64)


@compiled
def relu_backward(grads, acts, shift, out, totals, piece):
    """The columns of `piece` of `out`: `grads + shift` where a latent fires, else 0; and each one's sum."""
    total = np.empty(STRIPE, np.float32)
    for first in range(piece.lo, piece.hi, STRIPE):
        last = min(first + STRIPE, piece.hi)
        total[:] = 0
        for b in range(grads.shape[0]):
            row, act, new = grads[b, first:last], acts[b, first:last], out[b, first:last]
            mine = shift[first:last]
            for j in range(last - first):
                x = _number(row[j]) + mine[j]
                x = x if act[j] != 0 else np.float32(0)
                new[j] = _like(x, row[j])
                total[j] += x
        totals[first:last] = total[: last - first]


@compiled
def lane_maxima(products, bias, out, piece):
    """`out[b, c]`: the largest of `products + bias` over the columns c, c + lanes, ... of row b."""
    lanes = out.shape[1]
    for b in range(piece.lo, piece.hi):
        row, top = products[b], out[b]
        top[:] = -np.float32(np.inf)
        for first in range(0, row.size, lanes):
            n = min(lanes, row.size - first)
            part, mine = row[first : first + n], bias[first : first + n]
            for c in range(n):
                x = _number(part[c]) + mine[c]
                top[c] = top[c] if x <= top[c] else x


@compiled
def count_above(products, bias, least, out, piece):
    """On how many columns of each row `products + bias` is above 0 and not below `least`."""
    for b in range(piece.lo, piece.hi):
        row, n = products[b], np.int32(0)
        for c in range(row.size):
            x = _number(row[c]) + bias[c]
            n += np.int32(0) if x < least or x <= 0 else np.int32(1)
        out[b] = n


@compiled
def gather_above(products, bias, least, starts, latents, values, piece):
    """The columns that `count_above` counts, and what stands there; those of row b from `starts[b]` on."""
    pre_acts = np.empty(BLOCK, np.float32)
    for b in range(piece.lo, piece.hi):
        n = starts[b]
        for first in range(0, products.shape[1], BLOCK):
            width = min(BLOCK, products.shape[1] - first)
            row, mine = products[b, first : first + width], bias[first : first + width]
            found = np.int32(0)
            for c in range(width):
                x = _number(row[c]) + mine[c]
                pre_acts[c] = x
                found += np.int32(0) if x < least or x <= 0 else np.int32(1)
            if found == 0:
                continue
            for c in range(width):
                x = pre_acts[c]
                if not (x < least or x <= 0):
                    latents[n], values[n] = first + c, x
                    n += 1


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
def weighted_rows(weights, indices, rows, out, piece):
    """`out[b] = sum_j weights[b, j] * rows[indices[b, j]]`; weights of 0 are skipped."""
    k = weights.shape[1]
    used, weight = np.empty(k, np.int64), np.empty(k, np.float32)
    for b in range(piece.lo, piece.hi):
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
            pair = _mul_add(w0, r0[d], _mul_add(w1, r1[d], out[d]))
            out[d] = _mul_add(w2, r2[d], _mul_add(w3, r3[d], pair))
        p += 4
    while p < last:
        r0, w0 = rows[used[p]], weight[p]
        for d in range(width):
            out[d] = _mul_add(w0, r0[d], out[d])
        p += 1


@compiled
def row_products(x, indices, starts, rows, out, piece):
    """`out[p] = x[b] . rows[indices[p]]` for p from `starts[b]` to `starts[b + 1]`."""
    for b in range(piece.lo, piece.hi):
        _product_rows(x[b], indices, starts[b], starts[b + 1], rows, out)


@compiled_sums
def _product_rows(x, used, first, last, rows, out):
    """`out[p] = x . rows[used[p]]` for p from `first` to `last`, four rows at a time."""
    p = first
    while p + 4 <= last:
        r0, r1, r2, r3 = rows[used[p]], rows[used[p + 1]], rows[used[p + 2]], rows[used[p + 3]]
        t0, t1, t2, t3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for d in range(x.size):
            t0 += x[d] * r0[d]
            t1 += x[d] * r1[d]
            t2 += x[d] * r2[d]
            t3 += x[d] * r3[d]
        out[p], out[p + 1], out[p + 2], out[p + 3] = t0, t1, t2, t3
        p += 4
    while p < last:
        row, total = rows[used[p]], np.float32(0)
        for d in range(x.size):
            total += x[d] * row[d]
        out[p] = total
        p += 1


@compiled
def reconstruct(pairs, rows, z, bias, errors, piece):
    """For each row and its pairs p: `residual = z - bias - sum of values[p] * rows[used[p]]`, the sum of its
    squares, and `products[p] = residual . rows[used[p]]`.

    `bias` has a row for each member, as in `select`. What is read from `rows` for the sum is near for the
    products.
    """
    used, starts = pairs.used, pairs.starts
    per_member = errors.residual.shape[0] // bias.shape[0]
    for b in range(piece.lo, piece.hi):
        out, target, shift = errors.residual[b], z[b], bias[b // per_member]
        _sum_rows(used, pairs.values, starts[b], starts[b + 1], rows, out)
        for d in range(out.size):
            out[d] = target[d] - (out[d] + shift[d])
        errors.squares[b] = _dot(out, out)
        _product_rows(out, used, starts[b], starts[b + 1], rows, errors.products)


@compiled_sums
def _dot(x, y):
    """`x . y`, where x may be the bits of bfloat16."""
    total = np.float32(0)
    for d in range(x.size):
        total += _number(x[d]) * _number(y[d])
    return total


@compiled
def by_latent(pairs, n_latents):
    """The pairs with a value other than 0, in the order of their latents.

    Returns:
        First pairs `[n_latents + 1]` of the latents, and of each pair its row and its place in `values`.
    """
    values, indices, starts = pairs.values, pairs.used, pairs.starts
    firsts = np.zeros(n_latents + 1, np.int64)
    for p in range(values.size):
        if values[p] != 0:
            firsts[indices[p] + 1] += 1
    for i in range(n_latents):
        firsts[i + 1] += firsts[i]
    free = firsts[:-1].copy()
    row, place = np.empty(firsts[-1], np.int64), np.empty(firsts[-1], np.int64)
    for b in range(starts.size - 1):
        for p in range(starts[b], starts[b + 1]):
            if values[p] != 0:
                q = free[indices[p]]
                row[q], place[q] = b, p
                free[indices[p]] += 1
    return firsts, row, place


@compiled
def sum_rows(pairs, rows, out, piece):
    """`out[i]`: the sum of `values[p] * rows[used[p]]` over the pairs p of row i."""
    for i in range(piece.lo, piece.hi):
        _sum_rows(pairs.used, pairs.values, pairs.starts[i], pairs.starts[i + 1], rows, out[i])


@compiled
def grad_squares(p, grad, idle, unit_from, out, piece):
    """`out[i] = |g|^2` of each row's gradient; from row `unit_from` on, of its part across the row."""
    for i in range(piece.lo, piece.hi):
        square, along, length = np.float32(0), np.float32(0), np.float32(0)
        if not idle[i]:
            square = _dot(grad[i], grad[i])
            if i >= unit_from:
                along, length = _dot(grad[i], p[i]), _dot(p[i], p[i])
        out[i] = max(square - along * along * (2 - length), 0)


@compiled
def adam_rows(p, grad, moments, idle, how, piece):
    """See `reference.adam_rows`."""
    last = moments.last
    for i in range(piece.lo, piece.hi):
        if idle[i] and (how.lazy or last[i] == 0):
            continue
        missed = how.step - 1 - last[i]
        keep1, keep2 = how.beta1 * how.beta1**missed, how.beta2 * how.beta2**missed
        numbers = AdamRow(
            np.float32(keep1), np.float32(keep2), np.float32(1 - how.beta1), np.float32(1 - how.beta2),
            np.float32(how.factor), np.float32(how.lr / how.correction), np.float32(1 / how.root),
            np.float32(how.eps),
        )  # fmt: skip
        _adam_row(p[i], grad[i], moments.m[i], moments.v[i], not idle[i], i >= how.unit_from, numbers)
        last[i] = how.step


@compiled
def _adam_row(p, grad, m, v, has_grad, unit, numbers):
    keep1, keep2, gain1, gain2, factor, lr, unroot, eps = numbers
    along = _dot(grad, p) if has_grad and unit else np.float32(0)
    for d in range(p.size):
        g = factor * _mul_add(-along, p[d], _number(grad[d])) if has_grad else np.float32(0)
        m[d] = _mul_add(keep1, m[d], gain1 * g)
        v[d] = _mul_add(keep2, v[d], gain2 * g * g)
        m[d] = m[d] if abs(m[d]) > TINY else np.float32(0)
        v[d] = v[d] if v[d] > TINY else np.float32(0)
        p[d] -= lr * m[d] / _mul_add(np.sqrt(v[d]), unroot, eps)
    if unit:
        scale = np.float32(1) / max(np.sqrt(_dot(p, p)), np.float32(1e-12))
        for d in range(p.size):
            p[d] *= scale
