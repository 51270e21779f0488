"""The training curve: one row a measurement, kept in checkpoints, written as Parquet at the end.

It is the source of what is shown elsewhere: whoever follows is told of every row while it grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.core import Json, whole

Row = dict[str, float]
"""A measurement: numbers by name; which terms a loss has depends on the kind."""
Follower = Callable[[Json, list[Row]], None]
"""Takes what an SAE is (its `member` and settings) and its curve so far."""

_FOLLOWERS: list[Follower] = []


@contextmanager
def followed(follower: Follower) -> Iterator[None]:
    """Tell `follower` of every measurement of every SAE that this process trains inside the block.

    It is called from the threads that train, each time with the whole curve: one that continues from a
    checkpoint starts with the rows of the runs before it.
    """
    _FOLLOWERS.append(follower)
    try:
        yield
    finally:
        _FOLLOWERS.remove(follower)


def tell(facts: Json, curve: list[Row]) -> None:
    """Show an SAE's curve to all who follow."""
    for follower in tuple(_FOLLOWERS):
        follower(facts, curve)


def write_curves(curves: dict[str, list[Row]], file: Path) -> None:
    """All members' curves as one table, with the member's name in the first column.

    Columns that only some members have are null for the others.
    """
    rows = [{"member": member, **row} for member, curve in curves.items() for row in curve]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    with whole(file) as part:
        pq.write_table(pa.table(columns), part)


class Means:
    """Running means between two measurements; the sums are float64 and travel in checkpoints."""

    def __init__(self) -> None:
        self.n = 0
        self.sums: dict[str, float] = {}

    def add(self, values: dict[str, float]) -> None:
        """Count one step."""
        self.n += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """The means over the steps since the last call."""
        means = {name: total / self.n for name, total in self.sums.items()}
        self.n, self.sums = 0, {}
        return means
