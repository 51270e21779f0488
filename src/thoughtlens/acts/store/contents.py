"""What lies in a store: vectors, and the rows and problems that they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts.store import tables
from thoughtlens.acts.store.meta import PROBLEMS, ROWS, StoreMeta
from thoughtlens.acts.store.rowset import numbers_in
from thoughtlens.acts.store.shard import ShardMaps
from thoughtlens.core import DataError, HookError, StoreError
from thoughtlens.problems import grouped


class Contents:
    """Vectors by hook and row, and what `rows.parquet` and `problems.parquet` say of them.

    Safe to read from several threads; what is asked for is loaded when it is first needed.
    """

    def __init__(self, root: Path, meta: StoreMeta) -> None:
        self.root, self.meta = root, meta
        self.maps = ShardMaps(root, meta)

    @property
    def n_rows(self) -> int:
        """Rows of the store: token positions or thoughts."""
        return self.meta.n_rows

    @property
    def hook_names(self) -> list[str]:
        """Hooks of the store, in its order."""
        return self.meta.hook_names

    @cached_property
    def rows(self) -> pa.Table:
        """`rows.parquet`: one line per row. Whole, in memory; `problem_idx` is smaller."""
        return tables.read(self.root / ROWS)

    @cached_property
    def problems(self) -> pa.Table:
        """`problems.parquet`: one line per problem; one that names no group is a group of its own."""
        table = tables.read(self.root / PROBLEMS)
        tables.check_problems(table)
        if not table["group_id"].null_count:
            return table
        own = pc.call_function(
            "coalesce", [table[name].cast(pa.string()) for name in ("group_id", "problem_id")]
        )
        return table.set_column(table.column_names.index("group_id"), "group_id", own)

    @property
    def questions(self) -> pa.ChunkedArray:
        """The question, or text, of every line of `problems`.

        Raises:
            DataError: the store has none.
        """
        if "question" not in self.problems.column_names:
            raise DataError(
                f"{self.root / PROBLEMS} has no column question, which this needs; write the store with it"
            )
        return self.problems["question"]

    @cached_property
    def group_idx(self) -> np.ndarray:
        """The group of every line of `problems`, as numbers from 0 on, int64: near copies are one group."""
        table = self.problems
        text = next((name for name in ("question", "text") if name in table.column_names), None)
        groups = table["group_id"].cast(pa.string()).to_pylist()
        texts = [None] * len(groups) if text is None else table[text].to_pylist()
        return np.unique(grouped(texts, groups), return_inverse=True)[1]

    @cached_property
    def problem_idx(self) -> np.ndarray:
        """The line of `problems` of every row, int32 [n_rows]."""
        return np.concatenate([codes for _, codes in self._stream_rows()])

    @cached_property
    def thought_idx(self) -> np.ndarray | None:
        """`thought_idx` of every row, int16 [n_rows]; None for text."""
        if self.meta.kind == "text":
            return None
        batches = tables.stream(self.root / ROWS, ["thought_idx"])
        found = np.concatenate([batch["thought_idx"].to_numpy() for batch in batches])
        least = tables.LEAST_THOUGHT if self.meta.n_thoughts is None else -(2**15)
        if len(found) and not least <= found.min() <= found.max() < 2**15:
            raise StoreError(
                f"{self.root / ROWS} is inconsistent: thought_idx from {found.min()} to {found.max()}"
            )
        return found.astype(np.int16)

    @cached_property
    def thoughts(self) -> list[int]:
        """The values of `thought_idx` in the store, ascending; empty for text."""
        return [] if self.thought_idx is None else np.unique(self.thought_idx).tolist()

    @cached_property
    def own_thoughts(self) -> list[int]:
        """Those of them that are thoughts, and not tokens of the question or of the answer's cue."""
        return [thought for thought in self.thoughts if self.meta.is_thought(thought)]

    @cached_property
    def cells(self) -> list[tuple[str, int | None]]:
        """Every (hook_name, thought_idx), hook-major; (hook_name, None) for text."""
        return [(hook, thought) for hook in self.hook_names for thought in (self.thoughts or [None])]

    def read(
        self, hook_name: str, rows: np.ndarray | Sequence[int], dtype: torch.dtype | None = torch.float32
    ) -> Float[Tensor, "n d_in"]:
        """Activations of rows of one hook, in the order given; `dtype=None` keeps the stored one.

        Raises:
            HookError: the store does not have this hook.
            RangeError: a row outside [0, n_rows), a mask, fractions.
        """
        rows = numbers_in(rows, self.n_rows, f"rows of {self.root}")
        return self.maps.read(self.hook_idx(hook_name), rows, self.meta.d_in[hook_name], dtype)

    def hook_idx(self, hook_name: str) -> int:
        """Position of a hook in the store, or HookError."""
        if hook_name not in self.hook_names:
            raise HookError(
                f"Expected one of the hooks {', '.join(self.hook_names)}, got {hook_name!r}: it is not in "
                f"{self.root}; extract again with this hook"
            )
        return self.hook_names.index(hook_name)

    def masks(
        self, split: str | None, thoughts: Sequence[int] | None, drop_outliers: bool
    ) -> Iterator[np.ndarray]:
        """Whether each row is asked for, a bounded number of rows at a time; see `ActivationStore.view`.

        Raises:
            DataError: `drop_outliers`, and there is no column `outlier`.
        """
        in_split = None
        if split is not None:
            in_split = np.array([s == split for s in self._splits.to_pylist()], bool)
        columns = (["outlier"] if drop_outliers else []) + (["thought_idx"] if thoughts is not None else [])
        if drop_outliers and "outlier" not in self._row_columns:
            raise DataError(f"drop_outliers needs a column `outlier` in {self.root / ROWS}, there is none")
        for batch, problem_idx in self._stream_rows(columns):
            mask = np.ones(len(batch), bool) if in_split is None else in_split[problem_idx]
            if thoughts is not None:
                mask &= np.isin(batch["thought_idx"].to_numpy(), np.asarray(thoughts))
            if drop_outliers:
                mask &= ~batch["outlier"].to_numpy(zero_copy_only=False)
            yield mask

    def _stream_rows(self, columns: Sequence[str] = ()) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """Batches of `rows.parquet` with the line in `problems` of each row, checked on the way."""
        done = 0
        for batch in tables.stream(self.root / ROWS, ["row", "problem_id", *columns]):
            row, problem = batch.columns[:2]
            if not np.array_equal(row.to_numpy(), np.arange(done, done + len(batch))):
                raise StoreError(f"{self.root / ROWS} is inconsistent: `row` does not count 0, 1, 2, ...")
            done += len(batch)
            codes = tables.lines_of(problem.dictionary, self._problem_ids)
            if codes.null_count:
                lost = problem.dictionary.filter(codes.is_null())[0].as_py()
                raise StoreError(f"{self.root / ROWS} is inconsistent: problem {lost!r} is not in {PROBLEMS}")
            lines = codes.to_numpy(zero_copy_only=False).astype(np.int32)
            yield batch, lines[problem.indices.to_numpy()]

    @cached_property
    def _problem_ids(self) -> pa.Array:
        return tables.check_problems(tables.read(self.root / PROBLEMS, list(tables.PROBLEM_KEYS)))

    @cached_property
    def _splits(self) -> pa.Array:
        return tables.read(self.root / PROBLEMS, ["split"])["split"].combine_chunks()

    @cached_property
    def _row_columns(self) -> list[str]:
        with tables.open_parquet(self.root / ROWS) as file:
            return file.schema_arrow.names

    def describe(self, split: str | None, thoughts: Sequence[int] | None) -> str:
        """A choice of rows, and the splits that there are."""
        found = self._splits.value_counts().to_pylist()
        have = ", ".join(f"{c['values']} ({c['counts']})" for c in found)
        return f"split={split!r}, thoughts={thoughts}; its problems are in the splits {have}"
