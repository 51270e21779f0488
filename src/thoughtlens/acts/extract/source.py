"""What a kind of problem provides, so that the rest of the extraction is the same for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts.extract.records import Accuracy
from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.core import choose_device


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Rows of one forward pass, still on the model's device."""

    index: int
    """Number of the pass, counted over all runs."""
    acts: dict[str, Float[Tensor, "rows _"]]
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.acts.values())))


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a kind of problem provides for a store; the rest of the extraction is the same for all."""

    meta: StoreMeta
    n_rows: int
    """At most: a problem can stop thinking early."""
    problems: Callable[[], pa.Table]
    listed: Callable[[], pa.Table]
    """Those problems before the model has run: without its answers."""
    chunks: Callable[[int, tuple[int, int]], Iterator[Chunk]]
    """The passes from this one on, in order; with (i, n) those of the i-th of n nearly equal shares."""
    close: Callable[[], None]
    """Removes what was only needed on the way."""
    splits: tuple[str, ...]
    """Splits that must have rows."""
    n_thoughts: int | None = None
    """Most thoughts of a problem, where one can stop before."""
    n_left_out: int = 0
    """Tokens of texts that the model reads and that give no row."""
    notes: list[str] = field(default_factory=list)
    """What is odd about the problems."""
    control: str | None = None
    """What the model is a control for, where it is one."""
    settings: Mapping[str, bool | int | float | str | None] = field(default_factory=dict)
    """How a thought model thinks, as given, stated by its checkpoint, or assumed."""
    assumed: tuple[str, ...] = ()
    """Those of the settings that nothing stands behind."""
    accuracy: Callable[[Path], list[Accuracy] | None] = lambda root: None
    doubts: Callable[[Path], list[str]] = lambda root: []
    """How often the model's own answers are right, from a store of thoughts."""

    @property
    def index(self) -> str:
        """Row column that counts inside a problem."""
        return "position" if self.meta.kind == "text" else "thought_idx"


def flops(device: str, dtype: torch.dtype, width: int) -> float:
    """Floating-point operations a second of a model this wide, from one small product timed here."""
    where = choose_device(device, dtype)
    x = torch.ones(512, width, dtype=dtype, device=where)
    weight = torch.ones(width, 4 * width, dtype=dtype, device=where)
    (x @ weight).sum().item()  # warm-up
    start = time.perf_counter()
    torch.stack([x @ weight for _ in range(4)]).sum().item()
    return 0.5 * 4 * 2 * x.numel() * weight.shape[1] / (time.perf_counter() - start)
