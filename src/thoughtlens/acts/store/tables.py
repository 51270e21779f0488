"""The two Parquet tables of a store: which row is what, and the problems they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from thoughtlens.acts.store.meta import ROWS
from thoughtlens.core import DataError, NotThereError, StoreError, whole

KEYS = {"text": ("problem_id", "token_id", "position"), "thoughts": ("problem_id", "thought_idx")}
INT32 = ("token_id", "position", "thought_idx")
LEAST_THOUGHT = 0
"""The begin-of-thought position; below it are tokens of the question, where a store has them."""
PROBLEM_KEYS = ("problem_id", "group_id", "split")
TEXTS = (*PROBLEM_KEYS, "question", "text", "answer", "cot")
NO_GAPS = ("row", "problem_id", *INT32, "outlier")
"""Columns of a row that are never null."""


def columns(
    rows: Mapping[str, np.ndarray | Sequence], n: int, kind: str, least: int = LEAST_THOUGHT
) -> dict[str, np.ndarray]:
    """The columns of one batch as arrays of length n; strings as objects, indices as int32.

    `thought_idx` is `least` or more.

    Raises:
        DataError: a column is missing, has another length, or is `row`, which the store counts.
    """
    if missing := [name for name in KEYS[kind] if name not in rows]:
        raise DataError(f"Expected the row columns {', '.join(KEYS[kind])}, missing: {', '.join(missing)}")
    if "row" in rows:
        raise DataError("Expected no column `row`: the store counts its rows itself")
    out = {}
    for name in sorted(rows):
        values = np.asarray(rows[name])
        if values.shape != (n,):
            raise DataError(f"Expected {n} values in the row column {name}, got shape {list(values.shape)}")
        if name in INT32:
            if values.size and (values.dtype.kind not in "iu" or abs(values).max() >= 2**31):
                raise DataError(f"Expected 32-bit integers in the row column {name}, got {values.dtype}")
            if name == "thought_idx" and values.size and not least <= values.min() <= values.max() < 2**15:
                raise DataError(
                    f"Expected thought_idx within {least}..32767, got {values.min()}..{values.max()}"
                )
            values = values.astype(np.int32)
        elif values.dtype.kind in "UO" or name == "problem_id":
            values = values.astype(object)
            if not all(isinstance(value, str) for value in values):
                raise DataError(f"Expected strings in the row column {name}, got {values[:3].tolist()}")
        out[name] = values
    return out


def types(table: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Column name -> numpy dtype."""
    return {name: str(values.dtype) for name, values in table.items()}


def row_table(batches: Sequence[Mapping[str, np.ndarray]], first: int) -> pa.Table:
    """The rows of one shard; `row` counts from `first`, strings are dictionary-encoded."""
    names = [*KEYS["text"], "thought_idx"]
    order = sorted(batches[0], key=lambda name: (names.index(name) if name in names else len(names), name))
    n = sum(len(batch["problem_id"]) for batch in batches)
    table = {"row": pa.array(np.arange(first, first + n, dtype=np.int64))}
    for name in order:
        values = np.concatenate([batch[name] for batch in batches])
        array = pa.array(values)
        table[name] = array.dictionary_encode() if values.dtype == object else array
    return pa.table(table)


def write(path: Path, parts: Iterator[pa.Table], schema: pa.Schema) -> None:
    """Write tables as one Parquet file, a row group each; it is whole or absent."""
    with (
        whole(path) as part,
        part.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for table in parts:
            writer.write_table(table, row_group_size=max(len(table), 1))


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file of a store, its pages checked against their checksums when read."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise NotThereError(f"Expected {path.name} in the store at {path.parent}, found none") from None
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} is not a Parquet file, or was cut off: {_line(error)}") from None


def check_schema(path: Path, schema: pa.Schema, needed: Sequence[str]) -> None:
    """See that columns of a store's table are there, each once, and of the types that they are read as.

    Raises:
        StoreError: names the columns.
    """
    if missing := [name for name in needed if name not in schema.names]:
        raise StoreError(
            f"{path} is inconsistent: it lacks {', '.join(missing)}; it has {', '.join(schema.names)}"
        )
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise StoreError(f"{path} is inconsistent: it has {', '.join(twice)} more than once")
    for one in schema:
        if not _is_read_as(path.name, one.name, one.type):
            raise StoreError(f"{path} is inconsistent: its column {one.name} has the type {one.type}")


def _is_read_as(table: str, name: str, kind: pa.DataType) -> bool:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if table != ROWS:
        is_text |= pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)
        return name not in TEXTS or is_text or (name not in PROBLEM_KEYS and pa.types.is_null(kind))
    if name == "problem_id":
        return pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)
    if name == "outlier":
        return pa.types.is_boolean(kind)
    return name not in ("row", *INT32) or pa.types.is_integer(kind)


def read(path: Path, names: list[str] | None = None) -> pa.Table:
    """A whole table; dictionary columns with one dictionary."""
    with open_parquet(path) as file:
        try:
            return file.read(columns=names).unify_dictionaries()
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{path} is damaged: {_line(error)}") from None


def stream(path: Path, names: list[str], batch_rows: int = 16384) -> Iterator[pa.RecordBatch]:
    """Some columns of a table, a bounded number of rows at a time."""
    with open_parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_rows, columns=names):
                if gaps := [name for name in NO_GAPS if name in names and batch[name].null_count]:
                    raise StoreError(f"{path} is inconsistent: {', '.join(gaps)} has rows without a value")
                yield batch
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{path} is damaged: {_line(error)}") from None


def check_problems(problems: pa.Table) -> pa.Array:
    """The ids of a problems table that has its key columns and every id once."""
    if missing := [name for name in PROBLEM_KEYS if name not in problems.column_names]:
        need = ", ".join(PROBLEM_KEYS)
        raise DataError(f"Expected {need} in the problems table, missing: {', '.join(missing)}")
    if gaps := [name for name in ("problem_id", "split") if problems[name].null_count]:
        raise DataError(f"Expected {' and '.join(gaps)} of every problem, got problems without")
    ids = problems["problem_id"].cast(pa.string()).combine_chunks()
    counts = ids.value_counts()
    twice = counts.field("values").filter(pa.array(counts.field("counts").to_numpy() > 1))
    if len(twice):
        raise DataError(f"Expected every problem_id once, got {twice[0].as_py()!r} more often")
    return ids


def lines_of(ids: pa.Array, known: pa.Array) -> pa.Array:
    """The position of each id in `known`, int32, null where it is not there."""
    return pc.call_function("index_in", [ids], pc.SetLookupOptions(known))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
