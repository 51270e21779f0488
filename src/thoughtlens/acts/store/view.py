"""A set of vectors of a store: some hooks, pooled, of some rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts.store.contents import Contents
from thoughtlens.acts.store.order import Permutation
from thoughtlens.acts.store.rowset import RowSet, numbers_in
from thoughtlens.core import DataError


@dataclass(frozen=True)
class ViewBatch:
    """Vectors with their numbers in the view and their cells."""

    x: Float[Tensor, "n d_in"]
    idx: np.ndarray
    """int64 [n], for `View.rows_of`."""
    cell: np.ndarray
    """int64 [n], indices into `ActivationStore.cells`."""


class View:
    """Vectors numbered [0, n), hook-major: vector i is hook `i // n_rows`, selected row `i % n_rows`.

    Made by `ActivationStore.view`. Two views of one store share nothing that changes, so they may be
    read in turns.
    """

    read_ahead_bytes, read_ahead_vectors = 1 << 25, 1 << 15
    """Read at a time by `batches`: the more vectors, the closer they lie, and the fewer pages are mapped."""

    def __init__(self, store: Contents, hook_names: list[str], hooks: list[int], rows: RowSet) -> None:
        self.store, self.hook_names = store, hook_names
        self.d_in = store.meta.d_in[hook_names[0]]
        self.n_rows = rows.n
        self.n = rows.n * len(hook_names)
        self._hooks, self._rows = np.array(hooks), rows

    @property
    def cells(self) -> list[tuple[str, int | None]]:
        """`ActivationStore.cells`, all of them, so that cell numbers agree between views."""
        return self.store.cells

    def read(self, idx: np.ndarray, dtype: torch.dtype | None = torch.float32) -> Float[Tensor, "n d_in"]:
        """Vectors by number, in the order given; `dtype=None` keeps the stored one.

        Raises:
            RangeError: a number outside [0, n), a mask, fractions.
        """
        return self.store.maps.read(*self._locate(idx), self.d_in, dtype)

    def read_aligned(
        self, positions: np.ndarray, dtype: torch.dtype | None = torch.float32
    ) -> Float[Tensor, "n n_hooks d_in"]:
        """All hooks of the selected rows at these positions in [0, n_rows)."""
        _, rows = self._locate(positions, n_hooks=1)
        hook, row = np.tile(self._hooks, len(rows)), np.repeat(rows, len(self._hooks))
        return self.store.maps.read(hook, row, self.d_in, dtype).view(len(rows), -1, self.d_in)

    @cached_property
    def problem_lines(self) -> np.ndarray:
        """Lines of `ActivationStore.problems` that have rows here, ascending, int32."""
        return self._by_problem[0]

    def read_problems(
        self, which: np.ndarray, dtype: torch.dtype | None = torch.float32
    ) -> Float[Tensor, "n n_hooks n_thoughts d_in"]:
        """The thoughts of whole problems, by their position in `problem_lines`.

        Raises:
            DataError: the problems do not all have the same thoughts, in the same order, as in text.
        """
        positions = self._by_problem[1][np.asarray(which, np.int64)]
        x = self.read_aligned(positions.reshape(-1), dtype)
        return x.view(*positions.shape, len(self._hooks), self.d_in).transpose(1, 2)

    def rows_of(self, idx: np.ndarray) -> np.ndarray:
        """Row numbers of the store, int64."""
        return self._locate(idx)[1]

    def cell_of(self, idx: np.ndarray) -> np.ndarray:
        """Indices into `cells`, int64."""
        return self._cells(*self._locate(idx))

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        epochs: int | None = 1,
        dtype: torch.dtype | None = torch.float32,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[ViewBatch]:
        """Vectors in a random order, another one each epoch; every vector once an epoch.

        The epochs form one stream that is cut into batches, so only the last batch of all may be
        smaller. `start` vectors of the stream are skipped at no cost: a reader that stopped after
        `start` vectors gets exactly what it would have got. `epochs=None` never ends. With
        `share = (i, n)` only the vectors i, i + n, ... of each batch are read and given.
        """
        self._check_batch(batch_size)
        if start < 0 or (epochs is not None and epochs < 0):
            raise DataError(f"Expected start >= 0 and epochs >= 0, got start={start}, epochs={epochs}")
        stop = math.inf if epochs is None else epochs * self.n
        ahead = min(
            self.read_ahead_bytes // (self.d_in * self._stored.itemsize), self.read_ahead_vectors, self.n
        )
        ahead = int(min(max(1, ahead // batch_size) * batch_size, stop - start))
        buffer = torch.empty((max(ahead, 0), self.d_in), dtype=self._stored)
        while start < stop:
            idx = _stream(self.n, start, int(min(ahead, stop - start)), seed)
            start += len(idx)
            cuts = [idx[i : i + batch_size][share[0] :: share[1]] for i in range(0, len(idx), batch_size)]
            idx = np.concatenate(cuts)
            hook, rows = self._locate(idx)
            self.store.maps.gather(hook, rows, buffer[: len(idx)])
            cell, edge = self._cells(hook, rows), 0
            for cut in cuts:
                part, edge = slice(edge, edge + len(cut)), edge + len(cut)
                yield ViewBatch(
                    buffer[part].to(dtype or self._stored, copy=True), idx[part].copy(), cell[part]
                )

    def sequential(self, batch_size: int, dtype: torch.dtype | None = torch.float32) -> Iterator[ViewBatch]:
        """Every vector once, by number."""
        self._check_batch(batch_size)
        for first in range(0, self.n, batch_size):
            yield self._batch(np.arange(first, min(first + batch_size, self.n)), dtype)

    def sample(self, n: int, seed: int, dtype: torch.dtype | None = torch.float32) -> ViewBatch:
        """`min(n, self.n)` different vectors in a random order."""
        self._check_batch(n)
        return self._batch(Permutation(self.n, (seed, 0))(np.arange(min(n, self.n))), dtype)

    def _batch(self, idx: np.ndarray, dtype: torch.dtype | None) -> ViewBatch:
        hook, rows = self._locate(idx)
        return ViewBatch(self.store.maps.read(hook, rows, self.d_in, dtype), idx, self._cells(hook, rows))

    def _locate(self, idx: np.ndarray, n_hooks: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Hook (its index in the store) and row of each vector."""
        n = self.n_rows * (n_hooks or len(self._hooks))
        idx = numbers_in(idx, n, f"vectors of a view of {self.store.root}")
        hook, position = np.divmod(idx, self.n_rows)
        return self._hooks[hook], self._rows.rows(position)

    @cached_property
    def _by_problem(self) -> tuple[np.ndarray, np.ndarray]:
        """Problem lines, and the positions of each one's rows [n_problems, n_thoughts]."""
        rows = self._rows.rows(np.arange(self.n_rows))
        line = self.store.problem_idx[rows]
        order = np.argsort(line, kind="stable")
        lines, counts = np.unique(line, return_counts=True)
        if self.store.thought_idx is None or counts.min() < counts.max():
            raise DataError(
                f"Expected the same number of thoughts for every problem of {self.store.root}, got "
                f"{counts.min()} to {counts.max()} rows per problem; pool the rows of each problem instead"
            )
        positions = order.reshape(len(lines), -1)
        thoughts = self.store.thought_idx[rows[positions]]
        if (thoughts != thoughts[0]).any():
            raise DataError(
                f"Expected the same thoughts in the same order for every problem of {self.store.root}"
            )
        return lines, positions

    def _cells(self, hook: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if self.store.thought_idx is None:
            return hook
        return (
            hook * len(self.store.thoughts)
            + self._thought_cell[self.store.thought_idx[rows] - min(self.store.thoughts)]
        )

    @cached_property
    def _thought_cell(self) -> np.ndarray:
        """Place of each thought in the list of all, from the least one on."""
        at = np.array(self.store.thoughts) - min(self.store.thoughts)
        table = np.zeros(at[-1] + 1, np.int64)
        table[at] = np.arange(len(at))
        return table

    @property
    def _stored(self) -> torch.dtype:
        return self.store.meta.torch_dtype

    @staticmethod
    def _check_batch(batch_size: int) -> None:
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise DataError(f"Expected a batch of at least 1 vector, a whole number, got {batch_size!r}")


@lru_cache(maxsize=8)
def _stream(n: int, start: int, size: int, seed: int) -> np.ndarray:
    """`size` numbers of the endless stream over n vectors from its `start`-th on.

    Views that are read side by side, one per member of a stack, mostly have the same n and seed.
    """
    parts = []
    while size:
        epoch, first = divmod(start, n)
        take = min(size, n - first)
        parts.append(Permutation(n, (seed, epoch))(np.arange(first, first + take)))
        start, size = start + take, size - take
    idx = np.concatenate(parts)
    idx.flags.writeable = False
    return idx
