"""Similarities of two sets of vectors, block by block: n x m is never held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from thoughtlens.core import DataError, MismatchError

BLOCK_BYTES = 1 << 27
"""Similarities held at once."""
EXACT = 1 << 24
"""Pairs up to which the best assignment is found among all of them."""
CANDIDATES = 32
"""Nearest vectors of either side among which it is found above that."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """The most similar vector of the other side, for each vector."""

    index: Int[Tensor, " n"]
    value: Float[Tensor, " n"]


class Matches(NamedTuple):
    """The best match of each live latent; columns of `matches.parquet`."""

    latent: Int[np.ndarray, " n"]
    other: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    null_score: Float[np.ndarray, " n"]
    fit_score: Float[np.ndarray, " n"] | None = None
    p: Float[np.ndarray, " n"] | None = None
    p_max: Float[np.ndarray, " n"] | None = None
    untrained_score: Float[np.ndarray, " n"] | None = None
    p_untrained: Float[np.ndarray, " n"] | None = None
    transferred: Bool[np.ndarray, " n"] | None = None


class Assignment(NamedTuple):
    """One-to-one pairs, as many as the smaller side has vectors."""

    a: Int[np.ndarray, " pairs"]
    b: Int[np.ndarray, " pairs"]
    value: Float[np.ndarray, " pairs"]
    """Signed similarity of each pair."""
    exact: bool
    """Whether no better assignment exists; else the sum may be a little too small."""


def unit_rows(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of norm 1 in float32; zeros stay zero, similar to nothing."""
    return torch.nn.functional.normalize(x.detach().float(), dim=1)


def blocks(a: Float[Tensor, "n d"], b: Float[Tensor, "m _"]) -> Iterator[tuple[int, Float[Tensor, "some m"]]]:
    """(first row, dot products of rows of a with all of b), at most `BLOCK_BYTES` at a time.

    Raises:
        MismatchError: vectors of different widths.
        DataError: a side without vectors.
    """
    if a.shape[1] != b.shape[1]:
        raise MismatchError(f"Expected vectors of one width, got {a.shape[1]} and {b.shape[1]}")
    if not len(a) or not len(b):
        raise DataError(f"Expected at least one live latent on each side, got {len(a)} and {len(b)}")
    rows = max(1, BLOCK_BYTES // (4 * len(b)))
    for low in range(0, len(a), rows):
        yield low, a[low : low + rows] @ b.T


def nearest(a: Float[Tensor, "n d"], b: Float[Tensor, "m _"]) -> tuple[Nearest, Nearest]:
    """The most similar row of b for each row of a, and the other way round."""
    value_b, index_b = torch.full((len(b),), -torch.inf), torch.zeros(len(b), dtype=torch.long)
    of_a = []
    for low, found in blocks(a, b):
        of_a.append(found.max(1))
        best, row = found.max(0)
        index_b = torch.where(best > value_b, row + low, index_b)
        value_b = torch.maximum(value_b, best)
    index_a, value_a = torch.cat([f.indices for f in of_a]), torch.cat([f.values for f in of_a])
    return Nearest(index_a, value_a), Nearest(index_b, value_b)


def neighbours(x: Float[Tensor, "n d"], k: int) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The k most similar other rows of each row, most similar first."""
    k = min(k, len(x) - 1)
    index, value = [], []
    for low, found in blocks(x, x):
        mine = torch.arange(len(found))
        found[mine, low + mine] = -torch.inf
        top = found.topk(k, dim=1)
        index.append(top.indices)
        value.append(top.values)
    return torch.cat(index), torch.cat(value)


def assign(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], *, absolute: bool) -> Assignment:
    """The one-to-one assignment with the largest sum of similarities (or of their sizes).

    Up to `EXACT` pairs by the Hungarian method; above, the best assignment among each vector's `CANDIDATES`
    nearest of the other side, and whoever is left over in the order of their numbers.
    """
    if len(a) > len(b):
        found = assign(b, a, absolute=absolute)
        order = np.argsort(found.b, kind="stable")
        return Assignment(found.b[order], found.a[order], found.value[order], found.exact)
    exact = len(a) * len(b) <= EXACT
    rows, columns = _hungarian(a, b, absolute) if exact else _among_candidates(a, b, absolute)
    return Assignment(rows, columns, _dots(a, b, rows, columns), exact)


def _hungarian(a: Tensor, b: Tensor, absolute: bool) -> tuple[np.ndarray, np.ndarray]:
    cost = torch.cat([found for _, found in blocks(a, b)])
    return linear_sum_assignment((cost.abs() if absolute else cost).numpy(), maximize=True)


def _among_candidates(a: Tensor, b: Tensor, absolute: bool) -> tuple[np.ndarray, np.ndarray]:
    n, m = len(a), len(b)
    (rows, columns), (more_columns, more_rows) = _candidates(a, b, absolute), _candidates(b, a, absolute)
    rows, columns = np.r_[rows, more_rows], np.r_[columns, more_columns]
    kept = np.unique(rows * m + columns)
    rows, columns = np.divmod(kept, m)
    value = _dots(a, b, rows, columns)
    weight = (np.abs(value) if absolute else np.maximum(value, 0)) + 1  # 0 would mean no edge
    own = np.arange(n)  # a column of its own for each row: being left over is always possible
    edges = coo_array(
        (np.r_[weight, np.ones(n)], (np.r_[rows, own], np.r_[columns, m + own])), shape=(n, m + n)
    )
    got_rows, got = min_weight_full_bipartite_matching(edges.tocsr(), maximize=True)
    columns = np.empty(n, int)
    columns[got_rows] = got
    left = np.flatnonzero(columns >= m)
    columns[left] = np.setdiff1d(np.arange(m), columns)[: len(left)]
    return own, columns


def _candidates(a: Tensor, b: Tensor, absolute: bool) -> tuple[np.ndarray, np.ndarray]:
    k = min(CANDIDATES, len(b))
    index = torch.cat([(f.abs() if absolute else f).topk(k, dim=1).indices for _, f in blocks(a, b)])
    return np.repeat(np.arange(len(a)), k), index.flatten().numpy()


def _dots(a: Tensor, b: Tensor, rows: np.ndarray, columns: np.ndarray) -> Float[np.ndarray, " pairs"]:
    step = max(1, BLOCK_BYTES // (8 * a.shape[1]))
    parts = [
        (a[rows[i : i + step]] * b[columns[i : i + step]]).sum(1).numpy() for i in range(0, len(rows), step)
    ]
    return np.concatenate(parts)
