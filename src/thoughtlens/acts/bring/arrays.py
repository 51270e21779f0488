"""Arrays where they lie: rows of them are read, and a file is never loaded or mapped as a whole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import DTYPES, DataError


class InFile:
    """An array in a file, one row after the other.

    Args:
        path: The file.
        dtype: numpy's type, of any byte order, or `torch.bfloat16`, which numpy does not have.
        shape: Of the array.
        start: First byte.
    """

    def __init__(
        self, path: Path, dtype: np.dtype | torch.dtype, shape: Sequence[int], start: int = 0
    ) -> None:
        self._path, self.dtype, self.shape = path, dtype, tuple(shape)
        self._start, self._inner = start, math.prod(shape[1:]) * dtype.itemsize
        if path.stat().st_size < start + self._inner * len(self):
            raise DataError(f"{path} is cut off: {list(shape)} numbers do not fit into it")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    def __getitem__(self, rows: slice) -> Tensor | np.ndarray:
        """Some rows, one after the other."""
        x = np.empty((rows.stop - rows.start) * self._inner, np.uint8)
        with self._path.open("rb", 0) as file:
            file.seek(self._start + rows.start * self._inner)
            done = 0
            while done < len(x) and (n := file.readinto(x[done:].data)):
                done += n
        if done < len(x):
            raise DataError(f"{self._path} was cut off while it was read")
        shape = (-1, *self.shape[1:])
        if isinstance(self.dtype, torch.dtype):
            return torch.from_numpy(x).view(self.dtype).view(shape)
        return x.view(self.dtype).reshape(shape)


class Part(NamedTuple):
    """An array of a file, which may be one of several parts."""

    x: Any
    """`InFile`, a tensor, an array of numpy or of HDF5."""
    path: Path


class Vectors:
    """An array in parts, taken as rows [rows, d]."""

    def __init__(self, parts: Sequence[Part], name: str) -> None:
        self._parts, self._name = parts, name
        self._inner = math.prod(parts[0].x.shape[1:-1])
        self._ends = np.cumsum([len(part.x) * self._inner for part in parts])

    def take(self, rows: Int[np.ndarray, " n"]) -> Float[Tensor, "n d"]:
        """Some rows in the order given; neighbours are read at once."""
        wanted, back = np.unique(rows, return_inverse=True)
        part = np.searchsorted(self._ends, wanted, side="right")
        cuts = np.flatnonzero((np.diff(wanted) != 1) | (np.diff(part) != 0)) + 1
        edges = [0, *cuts.tolist(), len(wanted)]
        runs = [self._run(int(part[a]), int(wanted[a]), b - a) for a, b in itertools.pairwise(edges) if b > a]
        found = runs[0] if len(runs) == 1 else torch.cat(runs)
        return found if (back == np.arange(len(back))).all() else found[torch.from_numpy(back)]

    def where(self, row: int) -> str:
        """A row, for a message."""
        part = int(np.searchsorted(self._ends, row, side="right"))
        inside = row - (self._ends[part - 1] if part else 0)
        return f"row {inside:,} of {self._name} in {self._parts[part].path}"

    def _run(self, part: int, row: int, n: int) -> Tensor:
        x = self._parts[part].x
        row -= int(self._ends[part - 1]) if part else 0
        first, last = row // self._inner, -(-(row + n) // self._inner)
        found = x[first:last]
        if not isinstance(found, Tensor):
            found = np.asarray(found)
            found = torch.from_numpy(found.astype(found.dtype.newbyteorder("="), order="C"))
        return found.reshape(-1, x.shape[-1])[row - first * self._inner :][:n]


def is_vectors(value: Any) -> bool:
    """Whether it is an array of floats with two axes or more."""
    return getattr(value, "ndim", 0) > 1 and is_floating(value.dtype)


def is_floating(dtype: Any) -> bool:
    """Of numpy's types and torch's, whether a store can hold its numbers."""
    if isinstance(dtype, torch.dtype):
        return dtype in (*DTYPES.values(), torch.float64)
    return dtype.kind == "f" and dtype.itemsize in (2, 4, 8)
