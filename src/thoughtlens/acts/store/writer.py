"""Write an activation store in a stream: bounded memory, and the same bytes however often it is killed.

While it is written, `progress.json` says what is safe; `meta.json` appears last. Every file is
written under a temporary name, synced and renamed.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from thoughtlens.acts.store import tables
from thoughtlens.acts.store.meta import (
    META,
    PROBLEMS,
    PROGRESS,
    ROWS,
    Shard,
    StoreMeta,
    load_meta,
    parse_meta,
    shard_file,
)  # fmt: skip
from thoughtlens.acts.store.shard import ShardPart
from thoughtlens.core import (
    DataError,
    Json,
    MismatchError,
    NotThereError,
    OccupiedError,
    Record,
    StoreError,
    column,
    digest,
    fsync,
    read_json,
    write_json,
)

PARTS = "rows_parts"
WIDER = {
    "float16": "store them with store_dtype=bfloat16 or store_dtype=float32",
    "bfloat16": "store them with store_dtype=float32",
}
"""What can be done about values that a number format does not hold."""


@dataclass(frozen=True, kw_only=True)
class Progress(Record):
    """`progress.json`: how far a store is written."""

    meta: Json
    shard_rows: int
    cursor: Json | None = column(null=True)
    rows_done: int
    columns: dict[str, str]
    """Row columns and their numpy types."""

    @classmethod
    def read(cls, file: Path) -> Progress:
        """Of an unfinished store."""
        try:
            return cls.from_json(read_json(file))
        except StoreError as error:
            raise StoreError(
                f"{file} is damaged or not ours ({error}); delete the directory and start again"
            ) from None


class StoreWriter:
    """Appends rows to a new store; shards hold exactly `shard_rows` rows, the last one fewer.

    Args:
        root: Directory of the store; made if missing.
        meta: What is known before the first row; `n_rows`, `shards` and `tables` empty.
        shard_rows: Rows a shard. Memory does not depend on it, except for the row columns.

    Raises:
        OccupiedError: a store was begun or finished at `root`; see `resume` and `begin`.
    """

    def __init__(self, root: str | Path, meta: StoreMeta, shard_rows: int = 65536) -> None:
        self.root = Path(root)
        if shard_rows < 1:
            raise DataError(f"Expected shard_rows >= 1, got {shard_rows}")
        if meta.n_rows or meta.shards or meta.tables:
            raise DataError(f"Expected the meta of a new store, got one with n_rows = {meta.n_rows}")
        if any((self.root / name).exists() for name in (META, PROGRESS)):
            raise OccupiedError(
                f"Expected no activation store at {self.root}, found one; resume it, or write elsewhere"
            )
        self._start(meta, shard_rows)
        self._clean()
        self._save_progress()

    @classmethod
    def resume(cls, root: str | Path) -> StoreWriter:
        """The writer of an interrupted store, after its last finished shard; anything later is dropped.

        Go on with the batch that follows `cursor` (or from row `rows_done`, if no cursors were
        given): rows that are in a finished shard already are skipped when they come again. A store
        that is finished gives a writer with `finished = True` that takes no rows.

        Raises:
            NotThereError: no store was begun at `root`.
            StoreError: what was finished is damaged.
        """
        root = Path(root)
        self = cls.__new__(cls)
        self.root = root
        if (root / META).is_file() and not (root / PROGRESS).is_file():
            meta = load_meta(root)
            self._start(meta, meta.shard_rows)
            self.finished = True
        elif (root / PROGRESS).is_file():
            state = Progress.read(root / PROGRESS)
            self._start(parse_meta(state.meta, root / PROGRESS), state.shard_rows)
            self.cursor, self.rows_done, self._types = state.cursor, state.rows_done, state.columns
        else:
            raise NotThereError(
                f"Expected an unfinished activation store at {root}, found no {PROGRESS} there"
            )
        self._appended = self.rows_done
        self._check_shards()
        self._clean()
        return self

    @classmethod
    def begin(cls, root: str | Path, meta: StoreMeta, shard_rows: int = 65536) -> StoreWriter:
        """Resume the store at `root` if there is one, else start it.

        Raises:
            MismatchError: the store there was begun with another meta or `shard_rows`.
        """
        if not any((Path(root) / name).exists() for name in (META, PROGRESS)):
            return cls(root, meta, shard_rows)
        self = cls.resume(root)
        theirs = self.meta.model_copy(update={"n_rows": 0, "shards": [], "tables": {}})
        if not theirs.reading:  # begun by an earlier version, which did not say
            theirs = theirs.model_copy(update={"reading": meta.reading})
        same_rows = self.shard_rows == shard_rows or (self.finished and len(self.meta.shards) == 1)
        if theirs != meta or not same_rows:
            names = [k for k in type(meta).model_fields if getattr(theirs, k) != getattr(meta, k)]
            raise MismatchError(
                f"The unfinished store at {root} was begun with another {', '.join(names) or 'shard_rows'}; "
                f"finish it with its own settings, delete it, or choose another directory"
            )
        return self

    def _start(self, meta: StoreMeta, shard_rows: int) -> None:
        self.meta, self.shard_rows = meta, shard_rows
        self.finished = False
        self.cursor: Json | None = None
        """The cursor of the last batch that is wholly in finished shards."""
        self.rows_done = meta.n_rows
        """Rows that need not be appended again after an interruption."""
        self._appended = meta.n_rows
        self._marks: deque[tuple[int, Json]] = deque()
        self._uses_cursor = False
        self._types: dict[str, str] = {}
        self._columns: list[dict[str, np.ndarray]] = []
        self._part: ShardPart | None = None

    def append(
        self,
        acts: Mapping[str, Tensor],
        rows: Mapping[str, np.ndarray | Sequence],
        *,
        cursor: Json | None = None,
    ) -> None:
        """Add rows: for every hook a tensor [rows, d_in], and the columns that say what the rows are.

        Args:
            acts: hook_name -> activations, any float dtype and device.
            rows: Columns of `rows.parquet` but `row`, which is counted here: `problem_id`, with
                `token_id, position` (text) or `thought_idx` (thoughts), and any others.
            cursor: Small JSON object from which the caller can go on after these rows.

        Raises:
            MismatchError: hooks or widths that are not those of the meta.
            DataError: NaN, Inf, a value too large for the dtype, or columns that do not fit.
        """
        n = self._check_shapes(acts)
        least = tables.LEAST_THOUGHT if self.meta.n_thoughts is None else -(2**15)
        columns = tables.columns(rows, n, self.meta.kind, least)
        if n and self._types not in ({}, types := tables.types(columns)):
            raise DataError(
                f"Expected the row columns {self._types} as before, got {types} at row {self._appended}"
            )
        first = self._appended
        skip = min(max(self.meta.n_rows - first, 0), n)
        columns = {name: values[skip:] for name, values in columns.items()}
        converted = {
            hook: self._convert(hook, acts[hook][skip:], first + skip, columns["problem_id"])
            for hook in self.meta.hook_names
        }
        if n:
            self._types = tables.types(columns)
        self._appended = first + n
        if cursor is not None:
            self._uses_cursor = True
            self._marks.append((self._appended, cursor))
        self._add(converted, columns, n - skip)

    def finish(self, problems: pa.Table) -> StoreMeta:
        """Close the last shard and write `rows.parquet`, `problems.parquet` and `meta.json`.

        Args:
            problems: One row per problem: `problem_id, group_id, split` and any other columns; every
                problem of the store must be there. More may be.

        Raises:
            DataError: no rows, or problems that are missing or listed twice.
        """
        if self.finished:
            return self.meta
        if self._part:
            self._commit()
        if not self.meta.n_rows:
            raise DataError(f"Expected at least one row in the store at {self.root}, got none")
        if self._appended != self.meta.n_rows:
            raise StoreError(
                f"Expected at least the {self.meta.n_rows} rows of the interrupted run in {self.root}, "
                f"got {self._appended} before it was finished; continue from the cursor, to the end"
            )
        ids = tables.check_problems(problems)
        tables.write(self.root / PROBLEMS, iter([problems.combine_chunks()]), problems.schema)
        parts = self._checked_parts(ids)
        tables.write(self.root / ROWS, parts, tables.read(self._rows_path(0)).schema)
        digests = {name: digest(self.root / name) for name in (ROWS, PROBLEMS)}
        self.meta = self.meta.model_copy(update={"tables": digests})
        write_json(self.root / META, self.meta.model_dump(mode="json"))
        (self.root / PROGRESS).unlink()
        shutil.rmtree(self.root / PARTS)
        self.finished = True
        return self.meta

    def _check_shapes(self, acts: Mapping[str, Tensor]) -> int:
        if set(acts) != set(self.meta.hook_names):
            raise MismatchError(
                f"Expected activations of the hooks {self.meta.hook_names}, got {sorted(acts)}"
            )
        n = len(acts[self.meta.hook_names[0]])
        for hook, x in acts.items():
            if x.shape != (n, self.meta.d_in[hook]) or not x.is_floating_point():
                raise MismatchError(
                    f"Expected {hook} as floats [{n}, {self.meta.d_in[hook]}], got {x.dtype} {list(x.shape)}"
                )
        return n

    def _convert(self, hook: str, x: Tensor, first: int, problem_ids: np.ndarray) -> Tensor:
        x = x.detach()
        stored = x.to("cpu", self.meta.torch_dtype).contiguous()
        if stored.numel() and not torch.stack(torch.aminmax(stored)).isfinite().all():
            row = int((~stored.isfinite()).any(dim=1).nonzero()[0, 0])
            where = f"hook {hook}, row {first + row}, problem {problem_ids[row]!r}"
            vector = x[row].double().cpu()
            if not vector.isfinite().all():
                what = "NaN" if vector.isnan().any() else "Inf"
                raise DataError(
                    f"Expected finite activations, got {what} at {where}: the model itself overflowed; "
                    f"run it with dtype=bfloat16 or dtype=float32, or leave this problem out"
                )
            limit = torch.finfo(self.meta.torch_dtype).max
            way = WIDER.get(self.meta.dtype, "no number format of a store is wider, make them smaller")
            raise DataError(
                f"Expected activations within +-{limit:g} for dtype={self.meta.dtype}, got "
                f"{float(vector.abs().max()):g} at {where}: {way}"
            )
        return stored

    def _add(self, acts: dict[str, Tensor], columns: dict[str, np.ndarray], n: int) -> None:
        closed = bool(self.meta.shards) and self.meta.shards[-1].rows < self.shard_rows
        if n and (closed or self.finished):
            raise StoreError(
                f"Expected no rows after the last, {self.meta.n_rows}, of {self.root}, got {n} more"
            )
        done = 0
        while done < n:
            self._part = self._part or ShardPart(self._part_path(), self.meta, self.shard_rows)
            stop = min(n, done + self.shard_rows - self._part.rows)
            self._part.add([acts[hook][done:stop] for hook in self.meta.hook_names])
            self._columns.append({name: values[done:stop] for name, values in columns.items()})
            done = stop
            if self._part.rows == self.shard_rows:
                self._commit()

    def _commit(self) -> None:
        """Make the rows so far a finished shard; nothing before the last line counts after a crash."""
        assert self._part is not None
        index, first, path = len(self.meta.shards), self.meta.n_rows, self._part_path()
        size, sha256 = self._part.close()
        rows, self._part = self._part.rows, None
        shard = Shard(file=shard_file(index), rows=rows, bytes=size, sha256=sha256)
        table = tables.row_table(self._columns, first)
        tables.write(self._rows_path(index), iter([table]), table.schema)
        os.replace(path, self.root / shard.file)
        fsync(self.root / "shards")
        n_rows = first + rows
        self.meta = self.meta.model_copy(update={"shards": [*self.meta.shards, shard], "n_rows": n_rows})
        self._columns = []
        if not self._uses_cursor and self.cursor is None:
            self.rows_done = n_rows
        while self._marks and self._marks[0][0] <= n_rows:
            self.rows_done, self.cursor = self._marks.popleft()
        self._save_progress()

    def _part_path(self) -> Path:
        return self.root / f"{shard_file(len(self.meta.shards))}.part"

    def _rows_path(self, index: int) -> Path:
        return self.root / PARTS / f"{index:05d}.parquet"

    def _save_progress(self) -> None:
        state = Progress(
            meta=self.meta.model_dump(mode="json"),
            shard_rows=self.shard_rows,
            cursor=self.cursor,
            rows_done=self.rows_done,
            columns=self._types,
        )
        write_json(self.root / PROGRESS, state.to_json())

    def _check_shards(self) -> None:
        for shard in self.meta.shards:
            path = self.root / shard.file
            size = path.stat().st_size if path.is_file() else 0
            if size != shard.bytes:
                raise StoreError(
                    f"Expected {shard.bytes} bytes in {path}, got {size}: a finished shard was damaged; "
                    f"delete {self.root} and start again"
                )

    def _clean(self) -> None:
        """Drop what is not finished."""
        (self.root / "shards").mkdir(parents=True, exist_ok=True)
        keep = {self.root / shard.file for shard in self.meta.shards}
        for path in (self.root / "shards").iterdir():
            if path not in keep:
                path.unlink()
        if self.finished:
            shutil.rmtree(self.root / PARTS, ignore_errors=True)
        else:
            (self.root / PARTS).mkdir(exist_ok=True)

    def _checked_parts(self, ids: pa.Array) -> Iterator[pa.Table]:
        for index in range(len(self.meta.shards)):
            part = tables.read(self._rows_path(index))
            names = part["problem_id"].combine_chunks().dictionary
            missing = names.filter(tables.lines_of(names, ids).is_null())
            if len(missing):
                raise DataError(
                    f"Expected every problem of the store's rows in the problems table, {len(missing)} are "
                    f"missing, the first is {missing[0].as_py()!r}"
                )
            yield part
