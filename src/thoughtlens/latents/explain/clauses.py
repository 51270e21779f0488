"""Clauses: where a statement holds at some thoughts, a latent fires. Fitted and scored by counts.

A vector's score is the fitting precision of the best clause that holds for it. So a score has
one level more than there are clauses at most, and all numbers follow from the counts on each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from thoughtlens.latents.explain.statements import Stated

MOST_CLAUSES = 3
LEAST_GAIN = 0.02
"""Average precision on the fitting problems that a further clause must add."""
TIE = 0.01
"""Average precision within which the statement that comes first is taken: roles, labels, then words."""
MIN_HITS = 5
"""Firings on the fitting problems that a clause must foretell."""
N_CANDIDATES = 48
"""Statements looked at closely for one clause, those with the largest sum of hits x precision."""


class Clause(NamedTuple):
    """Where a statement holds in some contexts."""

    statement: int
    contexts: Bool[np.ndarray, " contexts"]
    precision: float
    """On the fitting vectors that no earlier clause covers."""


class Counts(NamedTuple):
    """Vectors and firings by (statement, context)."""

    n: Int[np.ndarray, "statements contexts"]
    hits: Int[np.ndarray, "statements contexts"]


@dataclass(frozen=True, eq=False)
class Fitter:
    """Fits clauses on one part; what is counted for all latents alike is counted once."""

    stated: Stated
    keys: Int[np.ndarray, "n most"]
    """Of each vector its (statement, context) pairs as numbers, filled up with one number past all."""
    n: Int[np.ndarray, "statements contexts"]

    @classmethod
    def of(cls, stated: Stated, n_contexts: int) -> Fitter:
        """For the vectors of `stated`."""
        held, n_statements = np.diff(stated.holds.indptr), len(stated.by_statement.indptr) - 1
        keys = np.full((len(held), int(held.max(initial=0))), n_statements * n_contexts, np.int32)
        pairs = stated.holds.indices * n_contexts + np.repeat(stated.context, held)
        keys[np.arange(keys.shape[1]) < held[:, None]] = pairs
        return cls(stated, keys, _counts(keys, (n_statements, n_contexts)))

    def fit(self, fires: Int[np.ndarray, " fires"]) -> list[Clause]:
        """Up to three clauses, each the one that adds most to the average precision, the surest first.

        Args:
            fires: Vectors on which the latent fires, ascending.
        """
        n_all, free_n, free_fires = len(self.stated.context), self.n, fires
        covered = np.zeros(n_all, bool)
        found: list[Clause] = []
        levels = np.zeros((0, 2))
        best = len(fires) / max(n_all, 1)
        while len(found) < MOST_CLAUSES and len(free_fires) >= MIN_HITS:
            hits = _counts(self.keys[free_fires], self.n.shape)
            clause, level, reached = self._next(Counts(free_n, hits), levels, len(fires))
            if clause is None or reached < best + LEAST_GAIN:
                break
            found.append(clause)
            best, levels = reached, np.vstack([levels, level])
            new = holds(clause, self.stated)
            new = new[~covered[new]]
            covered[new] = True
            free_n = free_n - _counts(self.keys[new], self.n.shape)
            free_fires = free_fires[~covered[free_fires]]
        return sorted(found, key=lambda clause: -clause.precision)

    def _next(
        self, free: Counts, levels: Float[np.ndarray, "k 2"], n_fires: int
    ) -> tuple[Clause | None, np.ndarray, float]:
        """The best further clause: of each statement the contexts by their precision, cut anywhere."""
        worth = (free.hits * (free.hits / np.maximum(free.n, 1))).sum(1)
        own = np.sort(np.argsort(-worth, kind="stable")[:N_CANDIDATES])
        hits, n = free.hits[own], free.n[own]
        order = np.argsort(-(hits / np.maximum(n, 1)), axis=1, kind="stable")
        hits, n = (np.take_along_axis(x, order, 1).cumsum(1) for x in (hits, n))
        reached = _with(levels, (n_fires, len(self.stated.context)), hits, n)
        reached[hits < MIN_HITS] = 0.0
        at = reached.argmax(1)
        value = reached[np.arange(len(own)), at]
        if not len(value) or value.max() <= 0:
            return None, np.zeros((1, 2)), 0.0
        first = int(np.flatnonzero(value >= value.max() - TIE)[0])
        taken = int(at[first])
        contexts = np.zeros(self.n.shape[1], bool)
        contexts[order[first, : taken + 1]] = True
        level = np.array([[hits[first, taken], n[first, taken]]], float)
        return Clause(int(own[first]), contexts, float(level[0, 0] / level[0, 1])), level, float(value[first])


def average_precision(
    hits: Num[np.ndarray, "*shape levels"], n: Num[np.ndarray, "*shape levels"]
) -> Float[np.ndarray, "*shape"]:
    """Average precision of scores with few levels: sum of (recall gained) x precision, down the levels.

    Args:
        hits: Firings on each level, the highest first; all firings together.
        n: Vectors on each level.
    """
    above = hits.cumsum(-1)
    gained = hits / np.maximum(above[..., -1:], 1e-12)
    return np.asarray((gained * above / np.maximum(n.cumsum(-1), 1e-12)).sum(-1))


def _with(
    levels: Float[np.ndarray, "k 2"], whole: tuple[int, int], hits: np.ndarray, n: np.ndarray
) -> Float[np.ndarray, "*shape"]:
    """Average precision with one level more of these sizes; `whole`: all firings and vectors."""
    shape = (*hits.shape, len(levels))
    each, sizes = (
        np.concatenate([np.broadcast_to(old, shape), new[..., None]], -1)
        for old, new in zip(levels.T, (hits, n), strict=True)
    )
    order = np.argsort(-(each / np.maximum(sizes, 1)), axis=-1, kind="stable")
    each, sizes = (np.take_along_axis(x, order, -1) for x in (each, sizes))
    rest = [total - x.sum(-1, keepdims=True) for total, x in zip(whole, (each, sizes), strict=True)]
    return average_precision(np.concatenate([each, rest[0]], -1), np.concatenate([sizes, rest[1]], -1))


def holds(clause: Clause, stated: Stated) -> Int[np.ndarray, " found"]:
    """The vectors for which a clause holds, ascending."""
    table = stated.by_statement
    rows = table.indices[table.indptr[clause.statement] : table.indptr[clause.statement + 1]]
    return np.sort(rows[clause.contexts[stated.context[rows]]])


def levels_of(clauses: Sequence[Clause], stated: Stated) -> Int[np.ndarray, " n"]:
    """Of each vector the first clause that holds, counted from 0; their number where none does."""
    found = np.full(len(stated.context), len(clauses))
    for i in range(len(clauses) - 1, -1, -1):
        found[holds(clauses[i], stated)] = i
    return found


def _counts(
    keys: Int[np.ndarray, "n most"], shape: tuple[int, ...]
) -> Int[np.ndarray, "statements contexts"]:
    """How many of these vectors there are for each (statement, context)."""
    size = shape[0] * shape[1]
    return np.bincount(keys.ravel(), minlength=size + 1)[:size].reshape(shape)
