"""What a kind of problem provides, so that the rest of the extraction is the same for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts.store.meta import StoreMeta


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Rows of one forward pass, still on the model's device."""

    index: int
    """Number of the pass, counted over all runs."""
    acts: dict[str, Float[Tensor, "rows _"]]
    columns: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a kind of problem provides for a store; the rest of the extraction is the same for all."""

    meta: StoreMeta
    n_rows: int
    problems: Callable[[], pa.Table]
    listed: Callable[[], pa.Table]
    """Those problems before the model has run: without its answers."""
    chunks: Callable[[int, tuple[int, int]], Iterator[Chunk]]
    """The passes from this one on, in order; with (i, n) those of the i-th of n nearly equal shares."""
    close: Callable[[], None]
    """Removes what was only needed on the way."""
    index: str
    """Row column that counts inside a problem: `position` or `thought_idx`."""
    splits: tuple[str, ...]
    """Splits that must have rows."""
    extra: Callable[[], dict[str, Any]] = dict
    """More for `result.json`."""
