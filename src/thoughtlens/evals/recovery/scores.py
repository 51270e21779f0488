"""Which latent speaks for which value: counts, F1, and the union of two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from thoughtlens.numerics import Interval, bootstrap_sums, cluster_index

CANDIDATES = 12
"""Latents per value whose unions of two are tried."""
SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Fired:
    """Which latents fire on which rows, and the value of each row."""

    fires: sp.csr_array
    """[rows, latents], 1 where a latent is not 0."""
    y: Int[np.ndarray, " rows"]

    def hits(self, latents: Int[np.ndarray, " v"]) -> Bool[np.ndarray, "rows v"]:
        """Firing of one latent per value."""
        return self.fires[:, latents].toarray() > 0


@dataclass(frozen=True, eq=False)
class Choice:
    """The latent chosen for each value, and the two whose union is best (twice the same: one is best)."""

    one: Int[np.ndarray, " v"]
    two: Int[np.ndarray, "v pair"]
    f1: Float[np.ndarray, " v"]
    f1_of_two: Float[np.ndarray, " v"]


def choose(seen: Fired, n_values: int) -> Choice:
    """The latents with the highest F1 = 2 TP / (fires + rows of the value), and the best unions of two."""
    values = one_hot(seen.y, n_values)
    told = np.asarray((values.T @ seen.fires).todense())
    fires, rows = np.asarray(seen.fires.sum(0)).ravel(), np.asarray(values.sum(0)).ravel()
    f1 = _f1(told, fires, rows[:, None])
    best = np.argsort(-f1, axis=1, kind="stable")[:, : min(CANDIDATES, f1.shape[1])]
    two, f1_of_two = np.zeros((n_values, 2), np.int64), np.zeros(n_values)
    for v, latents in enumerate(best):
        hits = seen.fires[:, latents].toarray()
        own = hits[seen.y == v]
        either = _either(own.T @ own)
        score = np.triu(_f1(either, _either(hits.T @ hits), rows[v]))
        i, j = np.unravel_index(score.argmax(), score.shape)
        if score[i, j] <= score[0, 0]:
            i = j = 0
        two[v], f1_of_two[v] = latents[[i, j]], score[i, j]
    return Choice(best[:, 0], two, np.take_along_axis(f1, best[:, :1], 1)[:, 0], f1_of_two)


@dataclass(frozen=True, eq=False)
class Score:
    """What the chosen latents tell of other rows."""

    precision: Float[np.ndarray, " v"]
    recall: Float[np.ndarray, " v"]
    f1: Float[np.ndarray, " v"]
    f1_of_two: Float[np.ndarray, " v"]
    found: Interval
    found_by_two: Interval
    best_f1: Interval


def score(
    seen: Fired, choice: Choice, groups: np.ndarray, *, found_at: float, n_resamples: int, seed: int
) -> Score:
    """Precision, recall and F1 of a choice; intervals resample whole groups of rows, the choice held."""
    index, n_groups = cluster_index(groups)
    one = seen.hits(choice.one)
    second = seen.hits(choice.two[:, 0]) | seen.hits(choice.two[:, 1])
    two = np.where(choice.two[:, 0] == choice.two[:, 1], one, second)
    values = one_hot(seen.y, len(choice.one)).toarray() > 0
    member = sp.csr_array((np.ones(len(index)), (index, np.arange(len(index)))), shape=(n_groups, len(index)))
    counts = np.hstack([values, one, one & values, two, two & values]).astype(float)

    def statistics(total: np.ndarray) -> np.ndarray:
        rows, fires, told, fires_two, told_two = np.split(total, 5, axis=1)
        f1, f1_of_two = _f1(told, fires, rows), _f1(told_two, fires_two, rows)
        there, best = rows > 0, np.maximum(f1, f1_of_two)
        each = [f1 >= found_at, best >= found_at, f1]
        return np.stack([(x * there).sum(1) / there.sum(1) for x in each], axis=1)

    found, found_by_two, best_f1 = bootstrap_sums(
        member @ counts, statistics, n_resamples=n_resamples, seed=seed
    )
    rows, fires, told, fires_two, told_two = np.split(counts.sum(0), 5)
    return Score(
        precision=_ratio(told, fires),
        recall=_ratio(told, rows),
        f1=_f1(told, fires, rows),
        f1_of_two=_f1(told_two, fires_two, rows),
        found=found,
        found_by_two=found_by_two,
        best_f1=best_f1,
    )


def splitting(seen: Fired, choice: Choice) -> tuple[Int[np.ndarray, " v"], Int[np.ndarray, " v"]]:
    """Per value: latents that it is split into, and values that share the latent chosen for it."""
    values = one_hot(seen.y, len(choice.one))
    told = np.asarray((values.T @ seen.fires).todense())
    fires, rows = np.asarray(seen.fires.sum(0)).ravel(), np.asarray(values.sum(0)).ravel()
    precise = _ratio(told, np.broadcast_to(fires, told.shape))
    into = ((precise >= 0.5) & (told >= SHARE * rows[:, None]) & (told > 0)).sum(1)
    return into, (precise[:, choice.one] >= SHARE).sum(0)


def one_hot(y: Int[np.ndarray, " rows"], n_values: int) -> sp.csr_array:
    """[rows, values]; a row of -1 has none."""
    known = np.flatnonzero(y >= 0)
    return sp.csr_array((np.ones(len(known)), (known, y[known])), shape=(len(y), n_values))


def _either(both: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Counts of a or b from those of a and b."""
    alone = np.diag(both)
    return alone[:, None] + alone[None] - both


def _f1(told: np.ndarray, fires: np.ndarray, rows: np.ndarray | float) -> np.ndarray:
    return _ratio(2 * told, fires + rows)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=np.asarray(bottom) > 0)
