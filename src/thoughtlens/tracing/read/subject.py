"""On which problems of a store something is traced."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thoughtlens.acts import ActivationStore
from thoughtlens.core import DataError


def problems_of(store: ActivationStore, split: str, n: int, seed: int, what: str) -> pa.Table:
    """At most `n` problems of a split, drawn.

    Raises:
        DataError: a store without questions, or fewer than two problems of the split.
    """
    if "question" not in store.problems.column_names:
        raise DataError(f"{store.root} keeps no questions, which {what} asks again; extract it from problems")
    table = store.problems.filter(pc.field("split") == split)
    if len(table) < 2:
        there = ", ".join(sorted(set(store.problems["split"].to_pylist())))
        raise DataError(
            f"{what}: expected 2 or more problems of split {split!r} in {store.root}, got {len(table)}; it "
            f"has {there}"
        )
    return table.take(np.random.default_rng((seed, 90)).permutation(len(table))[:n])
