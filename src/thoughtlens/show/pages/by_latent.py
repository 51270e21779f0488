"""Rows of one SAE in a run's tables, by latent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import or_
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thoughtlens.core import Record, of_table
from thoughtlens.show.pages.run import Run, read_table

R = TypeVar("R", bound=Record)
X = TypeVar("X")


def member_table(
    run: Run, stage: str, name: str, member: str, columns: Sequence[str] | None = None
) -> pa.Table | None:
    """An SAE's rows of a stage's table; None where the run has no such table.

    Raises:
        StoreError: it is damaged.
    """
    file = run.folder(stage) / name
    if not file.is_file():
        return None
    return read_table(file, stage, ["member", *columns] if columns else None, pc.field("member") == member)


def of_latents(keys: Iterable[tuple[str, int]]) -> pc.Expression:
    """Rows of these latents alone, each given by its SAE and number."""
    found = defaultdict(list)
    for member, latent in keys:
        found[member].append(latent)
    own = ((pc.field("member") == name) & pc.field("latent").isin(latents) for name, latents in found.items())
    return reduce(or_, own, pc.scalar(False))


class Grouped(Generic[R]):
    """Rows of an SAE, sorted by latent and then by `order`: columns, each ascending or descending."""

    def __init__(self, table: pa.Table, n: int, cls: type[R], order: Sequence[tuple[str, str]] = ()) -> None:
        keys = [("latent", "ascending"), *(key for key in order if key[0] in table.column_names)]
        for name, _ in keys:  # Arrow sorts no dictionaries
            if pa.types.is_dictionary(kind := table.schema.field(name).type):
                at = table.column_names.index(name)
                table = table.set_column(at, name, table[name].cast(kind.value_type))
        order = pc.sort_indices(table, sort_keys=keys).to_numpy()  # type: ignore[attr-defined]
        self._table = table if np.array_equal(order, np.arange(len(order))) else table.take(pa.array(order))
        self._cls = cls
        self._bounds = np.searchsorted(self._table["latent"].to_numpy(), np.arange(n + 1))

    def of(self, low: int, high: int) -> list[list[R]]:
        """The rows of each of the latents `low` to `high`."""
        return self.each(low, high, lambda table: of_table(self._cls, table))

    def each(self, low: int, high: int, read: Callable[[pa.Table], list[X]]) -> list[list[X]]:
        """The same, read by another function, which gives one entry per row."""
        first = self._bounds[low]
        rows = read(self._table.slice(first, self._bounds[high] - first))
        return [rows[self._bounds[i] - first : self._bounds[i + 1] - first] for i in range(low, high)]
