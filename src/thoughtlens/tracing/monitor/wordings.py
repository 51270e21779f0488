"""Thresholds for problems that are told as no fitted one is: clean problems whose wording was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from thoughtlens.latents import PROBLEM_COLUMNS
from thoughtlens.tracing.monitor.scores import Beyond
from thoughtlens.tracing.monitor.watched import Watched

PARTS, DRAWS = 3, 24
"""Each column's values are dealt to so many parts, so many times; one part of each is left out."""
NEW, KNOWN = 0.5, 0.1
"""Share of the scored problems whose value no fitted one has, at least, and of those that set thresholds, at
most, from which on a column is one of wordings."""
MOST = 5
"""Problems that share a value of such a column, on average, at least."""


@dataclass(frozen=True, eq=False)
class Told:
    """Some problems, and what the answer's chain says of each, in columns."""

    columns: Sequence[Sequence[str]]
    seen: Watched
    keys: Int[np.ndarray, "n columns"]
    """How each is worded."""

    def take(self, rows: Int[np.ndarray, " k"]) -> Told:
        """Some of them."""
        columns = [[str(one[i]) for i in rows] for one in self.columns]
        return Told(columns, self.seen.take(rows), self.keys[rows])


def new_wordings(fit: pa.Table, thresholds: pa.Table, scored: pa.Table) -> list[str]:
    """Columns whose values most scored problems share with no fitted one, where those that set thresholds do:
    as names or sentence patterns that only one split has."""
    found = []
    for name in fit.column_names:
        kind = fit.schema.field(name).type
        usable = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_dictionary(kind)
        if name in PROBLEM_COLUMNS or not usable:
            continue
        known = set(fit[name].to_pylist())
        here, new = (
            np.mean([value not in known for value in table[name].to_pylist()])
            for table in (thresholds, scored)
        )
        if new >= NEW and here <= KNOWN and 1 < len(known) <= len(fit) / MOST:
            found.append(name)
    return found


def keys_of(tables: Mapping[str, pa.Table], names: Sequence[str]) -> dict[str, Int[np.ndarray, "n columns"]]:
    """Values of these columns as numbers that agree between tables."""
    values = {name: {v for table in tables.values() for v in table[name].to_pylist()} for name in names}
    number = {name: {v: i for i, v in enumerate(sorted(own, key=str))} for name, own in values.items()}
    return {
        which: np.array(
            [[number[name][v] for v in table[name].to_pylist()] for name in names], dtype=int
        ).T.reshape(len(table), len(names))
        for which, table in tables.items()
    }


def left_out(fit: Told, clean: Told, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    """The score of clean problems by a fit to problems that share no value of any column with them.

    NaN of those whose turn never came.
    """
    found = np.full(len(clean.keys), np.nan)
    for _ in range(DRAWS):
        held = [rng.permutation(int(column.max()) + 1) % PARTS == 0 for column in clean.keys.T]
        rows = np.flatnonzero(_all(clean, held) & np.isnan(found))
        own = np.flatnonzero(_all(fit, [~one for one in held]))
        if len(rows) and len(own):
            usual, part = fit.take(own), clean.take(rows)
            found[rows] = Beyond(usual.columns, usual.seen).score(part.columns, part.seen)
    return found


def _all(told: Told, held: Sequence[Bool[np.ndarray, " values"]]) -> Bool[np.ndarray, " n"]:
    """Problems all of whose values are among these."""
    return np.all(
        [
            np.append(one, False)[np.minimum(keys, len(one))]
            for keys, one in zip(told.keys.T, held, strict=True)
        ],
        axis=0,
    )
