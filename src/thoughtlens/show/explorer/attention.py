"""Where each thought of a problem looks, as its page shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from thoughtlens.core import Record, of_table, read_parquet, read_result, read_rows
from thoughtlens.show.explorer.build import rounded
from thoughtlens.show.explorer.rows import Looks
from thoughtlens.show.explorer.sources import place
from thoughtlens.show.pages.run import Run
from thoughtlens.tracing import AskedRow, AttentionOutcome, WeightsRow

HEADS = 16
"""Of a model with more of them in all, each layer's mean is shown in their place."""


@dataclass(frozen=True, kw_only=True)
class Attended(Record):
    """A problem's attention."""

    tokens: list[str]
    n_thoughts: int
    looks: list[list]
    """Mean over layers and heads first, then each head, or each layer."""


def attended(run: Run, ids: Sequence[str]) -> dict[str, Attended]:
    """By problem, where its thoughts look; those whose weights are not kept are left out."""
    file = place(run, "weights")
    if not file.is_file():
        return {}
    outcome = AttentionOutcome.from_json(read_result(file.parent))
    rows = of_table(WeightsRow, read_parquet(file, filters=pc.field("problem_id").isin(list(ids))))
    own: dict[str, dict[int, list[WeightsRow]]] = {}
    for row in rows:
        own.setdefault(row.problem_id, {}).setdefault(row.query, []).append(row)
    single = outcome.n_layers * outcome.n_heads <= HEADS
    return {
        asked.problem_id: Attended(
            tokens=asked.tokens,
            n_thoughts=outcome.n_thoughts,
            looks=[
                one.line()
                for at, some in own[asked.problem_id].items()
                for one in _looks(at, some, single=single)
            ],
        )
        for asked in read_rows(file.with_name("questions.parquet"), AskedRow)
        if asked.problem_id in own
    }


def _looks(query: int, rows: Sequence[WeightsRow], *, single: bool) -> list[Looks]:
    """The mean of all heads, and what it is the mean of."""
    x = np.array([row.weights for row in rows])
    layers = np.array([row.layer for row in rows])
    found = [Looks(query=query, layer=None, head=None, weights=rounded(x.mean(0), 2))]
    if single:
        return found + [
            Looks(query=query, layer=row.layer, head=row.head, weights=rounded(own, 2))
            for row, own in zip(rows, x, strict=True)
        ]
    return found + [
        Looks(query=query, layer=int(layer), head=None, weights=rounded(x[layers == layer].mean(0), 2))
        for layer in np.unique(layers)
    ]
