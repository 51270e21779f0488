"""Read an activation store: memory-mapped, checked, in a seeded order that is never loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts.store import tables
from thoughtlens.acts.store.meta import PROBLEMS, ROWS, StoreMeta, load_meta
from thoughtlens.acts.store.rowset import RowSet, numbers_in
from thoughtlens.acts.store.shard import ShardMaps, layout
from thoughtlens.acts.store.view import View
from thoughtlens.core import DataError, HookError, MismatchError, NotThereError, StoreError, digest


class ActivationStore:
    """A finished activation store; opening it checks every file's size and header.

    Make one with `ActivationStore.open(root)`.
    """

    def __init__(self, root: Path, meta: StoreMeta) -> None:
        self.root, self.meta = root, meta
        self.maps = ShardMaps(root, meta)

    @classmethod
    def open(cls, root: str | Path, verify: bool = False) -> ActivationStore:
        """Open the store at `root`; `verify` also compares the digest of every file.

        Raises:
            NotThereError: nothing there, an unfinished store, or a missing file.
            StoreError: something else, another schema, or a damaged file.
        """
        root = Path(root)
        self = cls(root, load_meta(root))
        for index in range(len(self.meta.shards)):
            self._check_shard(index)
        self._check_tables()
        if verify:
            _check_digests(root, self.meta)
        return self

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
        """`rows.parquet`: one line a row. Whole, in memory; `problem_idx` is smaller."""
        return tables.read(self.root / ROWS)

    @cached_property
    def problems(self) -> pa.Table:
        """`problems.parquet`: one line a problem."""
        return tables.read(self.root / PROBLEMS)

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
        return np.concatenate([batch["thought_idx"].to_numpy().astype(np.int16) for batch in batches])

    @cached_property
    def thoughts(self) -> list[int]:
        """The values of `thought_idx` in the store, ascending; empty for text."""
        return [] if self.thought_idx is None else np.unique(self.thought_idx).tolist()

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

    def view(
        self,
        hook_names: Sequence[str] | None = None,
        split: str | None = None,
        thoughts: Sequence[int] | int | None = None,
        drop_outliers: bool = False,
    ) -> View:
        """The vectors of some hooks and rows as one set; every hook of it has the same width.

        Args:
            hook_names: Hooks to pool; None means all of the store.
            split: Rows of the problems of this split; None means all.
            thoughts: Rows with these values of `thought_idx`, or this one; None means all.
            drop_outliers: Leave out rows whose column `outlier` is true.

        Raises:
            HookError: a hook or thought the store does not have.
            MismatchError: hooks of different widths.
            DataError: no rows are left, or there is no column `outlier`.
        """
        names = self.hook_names if hook_names is None else hook_names
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            raise HookError(f"Expected at least one hook of {self.root}, got none")
        indices = [self.hook_idx(name) for name in names]
        if len(set(names)) < len(names):
            raise DataError(f"Expected each hook once, got {', '.join(names)}")
        widths = {name: self.meta.d_in[name] for name in names}
        if len(set(widths.values())) > 1:
            raise MismatchError(f"Expected hooks of one width to pool, got {widths}; take one at a time")
        thoughts = [thoughts] if isinstance(thoughts, int) else thoughts
        if thoughts is not None and len(set(thoughts)) < len(thoughts):
            raise DataError(f"Expected each thought once, got {', '.join(map(str, thoughts))}")
        if thoughts is not None and (unknown := sorted(set(thoughts) - set(self.thoughts))):
            have = f"thoughts {self.thoughts}" if self.thoughts else "no thoughts, it is a text store"
            raise HookError(f"Expected thoughts that are in {self.root}, got {unknown}: it has {have}")
        rows = RowSet(self._masks(split, thoughts, drop_outliers))
        if not rows.n:
            raise DataError(f"Expected rows, found none in {self.root} for {self._describe(split, thoughts)}")
        return View(self, names, indices, rows)

    def _masks(
        self, split: str | None, thoughts: Sequence[int] | None, drop_outliers: bool
    ) -> Iterator[np.ndarray]:
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
            if not np.array_equal(batch["row"].to_numpy(), np.arange(done, done + len(batch))):
                raise StoreError(f"{self.root / ROWS} is inconsistent: `row` does not count 0, 1, 2, ...")
            done += len(batch)
            codes = tables.lines_of(batch["problem_id"].dictionary, self._problem_ids)
            if codes.null_count:
                lost = batch["problem_id"].dictionary.filter(codes.is_null())[0].as_py()
                raise StoreError(f"{self.root / ROWS} is inconsistent: problem {lost!r} is not in {PROBLEMS}")
            lines = codes.to_numpy(zero_copy_only=False).astype(np.int32)
            yield batch, lines[batch["problem_id"].indices.to_numpy()]

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

    def _describe(self, split: str | None, thoughts: Sequence[int] | None) -> str:
        found = self._splits.value_counts().to_pylist()
        have = ", ".join(f"{c['values']} ({c['counts']})" for c in found)
        return f"split={split!r}, thoughts={thoughts}; its problems are in the splits {have}"

    def _check_shard(self, index: int) -> None:
        shard = self.meta.shards[index]
        path = self.root / shard.file
        plan = layout(self.meta, shard.rows)
        if not path.is_file():
            raise NotThereError(f"Expected the shard {path}, found none: the store is damaged; extract again")
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(len(plan.header))
        if size == shard.bytes == plan.size and header == plan.header:
            return
        if size != plan.size:
            how = "cut off" if size < plan.size else "extended"
            what = f"has {size} bytes, expected {plan.size}: it was {how}"
        else:
            what = "has a header that disagrees with meta.json"
        same = "agrees, so meta.json is wrong" if digest(path) == shard.sha256 else "differs too"
        raise StoreError(f"{path} {what} (its sha256 {same}); extract again, or restore the file")

    def _check_tables(self) -> None:
        with tables.open_parquet(self.root / ROWS) as file:
            n, names = file.metadata.num_rows, file.schema_arrow.names
            types = dict(zip(names, file.schema_arrow.types, strict=True))
        needed = ["row", *tables.KEYS[self.meta.kind]]
        if n != self.n_rows or not set(needed) <= set(names):
            raise StoreError(
                f"{self.root / ROWS} is inconsistent: expected {self.n_rows} rows with {', '.join(needed)}, "
                f"got {n} with {', '.join(names)}"
            )
        if not pa.types.is_dictionary(types["problem_id"]):
            raise StoreError(f"{self.root / ROWS} is inconsistent: problem_id is not dictionary-encoded")
        with tables.open_parquet(self.root / PROBLEMS) as file:
            if not set(tables.PROBLEM_KEYS) <= set(file.schema_arrow.names):
                raise StoreError(f"{self.root / PROBLEMS} lacks one of {', '.join(tables.PROBLEM_KEYS)}")


def verify(root: str | Path) -> dict[str, Any]:
    """Compare every file of the store at `root` with the digest in its meta.

    Returns:
        `{"root", "files", "bytes", "n_rows", "hook_names"}` of a store that is whole.

    Raises:
        NotThereError, StoreError: as `ActivationStore.open`; every damaged file is named.
    """
    store = ActivationStore.open(root, verify=True)
    files = [*(s.file for s in store.meta.shards), *store.meta.tables]
    return {
        "root": str(root),
        "files": len(files),
        "bytes": sum((store.root / name).stat().st_size for name in files),
        "n_rows": store.n_rows,
        "hook_names": store.hook_names,
    }


def _check_digests(root: Path, meta: StoreMeta) -> None:
    expected = {shard.file: shard.sha256 for shard in meta.shards} | meta.tables
    damaged = [name for name, sha256 in expected.items() if digest(root / name) != sha256]
    if damaged:
        raise StoreError(
            f"Expected the sha256 of meta.json in {root}, {len(damaged)} of {len(expected)} files differ: "
            f"{', '.join(damaged)}; restore them, or extract again"
        )
