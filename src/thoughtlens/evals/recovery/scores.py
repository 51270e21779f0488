"""Which latent speaks for which value: counts, F1, and the union of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from thoughtlens.evals.recovery.ceilings import one_hot
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

    @property
    def n_latents(self) -> int:
        """Of the dictionary."""
        return cast(tuple[int, int], self.fires.shape)[1]

    @classmethod
    def asked(cls, fires: sp.csr_array, own: Int[np.ndarray, " all"]) -> Fired:
        """Those rows that a question asks about (codes of -2: it does not)."""
        return cls(fires[own != -2], own[own != -2])


def where(fires: Bool[np.ndarray, "rows latents"]) -> sp.csr_array:
    """1 where a latent fires; faster than scipy's own search."""
    columns = np.flatnonzero(fires) % fires.shape[1]
    ends = np.r_[0, np.cumsum(np.count_nonzero(fires, axis=1))]
    return sp.csr_array((np.ones(len(columns), np.float32), columns, ends), shape=fires.shape)


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
    score = np.triu(_f1(*_unions(seen, best), rows[:, None, None]))
    each, alone = np.arange(n_values), score[:, 0, 0]
    i, j = np.unravel_index(score.reshape(n_values, -1).argmax(1), score.shape[1:])
    helps = score[each, i, j] > alone
    i, j = np.where(helps, i, 0), np.where(helps, j, 0)
    two = np.stack([best[each, i], best[each, j]], axis=1)
    return Choice(best[:, 0], two, f1[each, best[:, 0]], score[each, i, j])


def _unions(seen: Fired, best: Int[np.ndarray, "v c"]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a value on which one of two of its candidates fires, and all such rows, [v, c, c]."""
    (n_values, n), n_latents = best.shape, seen.n_latents
    place = np.full((n_values, n_latents), -1, np.int16)
    np.put_along_axis(place, best, np.arange(n, dtype=np.int16), axis=1)
    row, latent = seen.fires.nonzero()
    at = np.where(seen.y[row] >= 0, place[seen.y[row], latent], -1)
    hits = np.zeros((len(seen.y), n), np.float32)
    hits[row[at >= 0], at[at >= 0]] = 1
    own = np.zeros((n_values, n, n))
    for v in np.unique(seen.y[seen.y >= 0]):
        mine = hits[seen.y == v]
        own[v] = mine.T @ mine
    some = np.unique(best)
    both = np.asarray((seen.fires[:, some].T @ seen.fires[:, some]).todense())
    column = np.searchsorted(some, best)
    return _either(own), _either(both[column[:, :, None], column[:, None, :]])


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
    counts: sp.csr_array
    """[groups, 5 v]: by value its rows, firings of its latent, those of them that are right, and the same
    two of its two latents."""


def score(
    seen: Fired, choice: Choice, groups: np.ndarray, *, found_at: float, n_resamples: int, seed: int
) -> Score:
    """Precision, recall and F1 of a choice; intervals resample whole groups of rows, the choice held."""
    index, n_groups = cluster_index(groups)
    member = sp.csr_array((np.ones(len(index)), (index, np.arange(len(index)))), shape=(n_groups, len(index)))
    counts = sp.csr_array(member @ _counts(seen, choice))

    def statistics(total: np.ndarray) -> np.ndarray:
        rows, fires, told = np.split(total, 5, axis=1)[:3]
        f1 = _f1(told, fires, rows)
        each = [_over(f1 >= found_at, rows), found_by_two(total, found_at), _over(f1, rows)]
        return np.stack(each, axis=1)

    found, two, best_f1 = bootstrap_sums(counts, statistics, n_resamples=n_resamples, seed=seed)
    rows, fires, told, fires_two, told_two = np.split(np.asarray(counts.sum(0)), 5)
    return Score(
        precision=_ratio(told, fires),
        recall=_ratio(told, rows),
        f1=_f1(told, fires, rows),
        f1_of_two=_f1(told_two, fires_two, rows),
        found=found,
        found_by_two=two,
        best_f1=best_f1,
        counts=counts,
    )


def found_by_two(
    total: Float[np.ndarray, "resamples five_v"], found_at: float
) -> Float[np.ndarray, " resamples"]:
    """Share of the values of which the two latents chosen have that F1, from totals of `Score.counts`."""
    rows, *_, fires, told = np.split(total, 5, axis=1)
    return _over(_f1(told, fires, rows) >= found_at, rows)


def _over(each: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean over the values that have rows; NaN where none has."""
    there = rows > 0
    n = there.sum(1)
    return np.where(n > 0, (each * there).sum(1) / np.maximum(n, 1), np.nan)


def _counts(seen: Fired, choice: Choice) -> sp.csr_array:
    """By row: its value, the firing of each value's latent, the two together; and the same of its two."""
    values = one_hot(seen.y, len(choice.one))
    one, other = (seen.fires[:, latents] for latents in choice.two.T)
    single, two = seen.fires[:, choice.one], one.maximum(other)
    return sp.csr_array(sp.hstack([values, single, single.multiply(values), two, two.multiply(values)]))


def splitting(seen: Fired, choice: Choice) -> tuple[Int[np.ndarray, " v"], Int[np.ndarray, " v"]]:
    """Per value: latents that it is split into, and values that share the latent chosen for it."""
    values = one_hot(seen.y, len(choice.one))
    told = np.asarray((values.T @ seen.fires).todense())
    fires, rows = np.asarray(seen.fires.sum(0)).ravel(), np.asarray(values.sum(0)).ravel()
    precise = _ratio(told, np.broadcast_to(fires, told.shape))
    into = ((precise >= 0.5) & (told >= SHARE * rows[:, None]) & (told > 0)).sum(1)
    return into, (precise[:, choice.one] >= SHARE).sum(0)


def layered(
    seen: Fired, choice: Choice, kind: Int[np.ndarray, " v"], of_kind: Int[np.ndarray, " kinds"]
) -> Float[np.ndarray, "rows 2"]:
    """Of each row with a value: whether its value's latent fires without its kind's (the kind is absorbed),
    and whether the two fire together (composed).

    Args:
        seen: Rows.
        choice: The latents of the values.
        kind: Of each value.
        of_kind: The latent of each kind.
    """
    known = np.flatnonzero(seen.y >= 0)
    y, fires = seen.y[known], seen.fires[known]
    each = np.arange(len(known))
    value = np.asarray(fires[each, choice.one[y]]).ravel() > 0
    above = np.asarray(fires[each, of_kind[kind[y]]]).ravel() > 0
    return np.stack([value & ~above, value & above], axis=1).astype(float)


def _either(both: Float[np.ndarray, "v k k"]) -> Float[np.ndarray, "v k k"]:
    """Counts of a or b from those of a and b."""
    alone = np.diagonal(both, axis1=1, axis2=2)
    return alone[:, :, None] + alone[:, None, :] - both


def _f1(told: np.ndarray, fires: np.ndarray, rows: np.ndarray | float) -> np.ndarray:
    return _ratio(2 * told, fires + rows)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=np.asarray(bottom) > 0)
