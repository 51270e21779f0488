"""Which columns and which vectors a model of one latent is fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from thoughtlens.latents.explain.columns import Table

MAX_FIRES, MAX_NEAR, MAX_FAR = 2000, 2500, 1500
"""Vectors to fit on at most: those that fire, others that share a promising column, and the rest."""
N_NEAR_COLUMNS = 20


@dataclass(frozen=True, eq=False)
class Sample:
    """Vectors to fit on; `weight` says how many of the part each stands for."""

    rows: Int[np.ndarray, " n"]
    fires: Bool[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]


def screen(table: Table, fires: Bool[np.ndarray, " n"], n: int) -> Int[np.ndarray, " columns"]:
    """The `n` binary columns whose share of fires differs most from the base rate, the clearest first.

    Their z = (fires - expected) / sqrt(expected (1 - base rate) + 1), in absolute size.
    """
    held = np.diff(table.by_column.indptr)
    here = np.asarray(table.binary[np.flatnonzero(fires)].sum(0)).ravel()
    rate = fires.mean()
    z = np.abs(here - held * rate) / np.sqrt(held * rate * (1 - rate) + 1)
    order = np.lexsort((np.arange(len(z)), -z))[:n]
    return order[z[order] > 0]


def sample(
    table: Table,
    fires: Bool[np.ndarray, " n"],
    columns: Int[np.ndarray, " columns"],
    rng: np.random.Generator,
) -> Sample:
    """Fires, silent vectors with a promising column, and other silent ones, each kind thinned by itself.

    Silent vectors at random would hardly ever hold the column that a rare trigger shares with them, and a
    fit would not learn what the trigger lacks without its second half.
    """
    shared = np.zeros(len(fires), bool)
    for column in columns[:N_NEAR_COLUMNS].tolist():
        low, high = table.by_column.indptr[column], table.by_column.indptr[column + 1]
        if high - low <= len(fires) // 2:
            shared[table.by_column.indices[low:high]] = True
    kinds = (fires, ~fires & shared, ~fires & ~shared)
    rows, weights = [], []
    for kind, limit in zip(kinds, (MAX_FIRES, MAX_NEAR, MAX_FAR), strict=True):
        own = np.flatnonzero(kind)
        kept = own if len(own) <= limit else np.sort(rng.choice(own, limit, replace=False))
        rows.append(kept)
        weights.append(np.full(len(kept), len(own) / max(len(kept), 1)))
    chosen = np.concatenate(rows)
    return Sample(chosen, fires[chosen], np.concatenate(weights))


def rows_of(table: Table, rows: Int[np.ndarray, " n"], columns: Int[np.ndarray, " columns"]) -> sp.csr_array:
    """Some binary columns of some vectors."""
    return sp.csr_array(table.binary[rows][:, columns])
