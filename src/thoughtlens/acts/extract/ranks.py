"""Extraction by several processes: each does its passes into a part of its own, the first joins the parts.

Passes are dealt out so that all have about as much to do. Joined in their order, the parts give the store
that one process writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from heapq import merge
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.parquet import read_schema

from thoughtlens.acts.extract.source import Chunk, Source
from thoughtlens.acts.store.meta import ROWS
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.acts.store.tables import stream
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.core import Ranks, progress

PASS = "pass"
"""Row column of a part: the number of the forward pass."""
FOLDER = "ranks_{size}"


def write_part(source: Source, tmp: Path, shard_rows: int, ranks: Ranks) -> None:
    """This rank's passes, from where an interrupted run stands, into its part."""
    root = _part(tmp, ranks.rank, ranks.size)
    writer = StoreWriter.begin(root, source.meta, shard_rows)
    if writer.finished:
        return
    start = writer.cursor["next_batch"] if writer.cursor else 0
    some = writer.rows_done > 0
    with progress("extract", source.n_rows // ranks.size, start=writer.rows_done) as bar:
        for chunk in source.chunks(start, (ranks.rank, ranks.size)):
            n = len(chunk)
            columns = {**chunk.columns, PASS: np.full(n, chunk.index, np.int64)}
            writer.append(chunk.acts, columns, cursor={"next_batch": chunk.index + 1})
            some |= n > 0
            bar.advance(n)
    if some:
        writer.finish(source.listed())


def joined_parts(source: Source, tmp: Path, size: int) -> Source:
    """The same source, its passes read from the parts instead of done again."""

    def chunks(start: int, _: tuple[int, int] = (0, 1)) -> Iterator[Chunk]:
        parts = (_passes(_part(tmp, rank, size)) for rank in range(size))
        return (chunk for chunk in merge(*parts, key=attrgetter("index")) if chunk.index >= start)

    return replace(source, chunks=chunks)


def _part(tmp: Path, rank: int, size: int) -> Path:
    return tmp / FOLDER.format(size=size) / f"{rank:03d}"


def _passes(root: Path) -> Iterator[Chunk]:
    """A part's passes in order."""
    if not (root / ROWS).is_file():
        return
    store = ActivationStore.open(root)
    names = [name for name in read_schema(root / ROWS).names if name != "row"]
    first, held = 0, []
    for batch in stream(root / ROWS, names):
        held.append(pa.Table.from_batches([batch]))
        table = pa.concat_tables(held)
        passes = table[PASS].to_numpy()
        cuts = [0, *(np.flatnonzero(np.diff(passes)) + 1).tolist()]
        for lo, hi in pairwise(cuts):
            yield _chunk(store, table.slice(lo, hi - lo), first + lo)
        held, first = [table.slice(cuts[-1])], first + cuts[-1]
    yield _chunk(store, pa.concat_tables(held), first)


def _chunk(store: ActivationStore, table: pa.Table, first: int) -> Chunk:
    rows = np.arange(first, first + len(table))
    columns: dict[str, Any] = {
        name: np.array(table[name].to_pylist(), object) if name == "problem_id" else table[name].to_numpy()
        for name in table.column_names
        if name != PASS
    }
    acts = {hook: store.read(hook, rows, dtype=None) for hook in store.meta.hook_names}
    return Chunk(index=int(table[PASS][0].as_py()), acts=acts, columns=columns)
