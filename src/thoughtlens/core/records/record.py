"""Records: what stages write and readers read, defined once.

A record is a frozen dataclass. Its JSON has the fields in their order; a table of records is a Parquet file
whose schema comes from the fields' types, and whose heads on a page come from the fields' titles.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from thoughtlens.core.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

Json = dict[str, Any]
"""A JSON object on its way from or to a file; readers turn it into a record at once."""

R = TypeVar("R", bound="Record")
PLAIN = frozenset({str, int, float, bool, types.NoneType})
"""Types of values that JSON takes as they are, which are most of them."""


def column(
    title: str = "",
    *,
    default: Any = dataclasses.MISSING,
    arrow: str = "",
    null: bool = False,
    key: str | None = None,
) -> Any:
    """A field of a record.

    Args:
        title: Head of the column on a page; unset: the field's name.
        default: Value where none is given.
        arrow: Arrow type by name where it is not that of the Python type (`int32`, `float32`); `dictionary`:
            texts, each kept once.
        null: Whether JSON holds `null` where the value is None, instead of leaving the key out.
        key: Name in files where it is not the field's, as it may hold signs that a name may not.
    """
    return field(default=default, metadata={"title": title, "arrow": arrow, "null": null, "alias": key})


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of all records; a subclass is a frozen, keyword-only dataclass."""

    def to_json(self) -> Json:
        """The fields in their order; what is None is left out unless its column says `null`."""
        table = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None or one.metadata.get("null") or one.default is dataclasses.MISSING:
                table[_key(one)] = _plain(value)
        return table

    @classmethod
    def from_json(cls: type[R], table: Mapping[str, Any]) -> R:
        """The record that `to_json` wrote; keys that it does not know are left alone.

        Raises:
            StoreError: a field is missing or of another type.
        """
        from pydantic import ValidationError

        try:
            return _adapter(cls).validate_python(dict(table) if isinstance(table, Mapping) else table)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise StoreError(
                f"{cls.__name__}: {where or 'all of it'}: {first['msg']}; the file is damaged or not ours"
            ) from None

    @classmethod
    def heads(cls) -> list[str]:
        """Titles of the columns, in their order."""
        return [one.metadata.get("title") or _key(one) for one in fields(cls)]

    def cells(self) -> list[Any]:
        """The values under `heads`."""
        return [getattr(self, one.name) for one in fields(self)]


def schema(cls: type[Record]) -> pa.Schema:
    """Arrow schema of a table of records."""
    import pyarrow as pa

    return pa.schema(list(_types(cls, frozenset(map(_key, fields(cls)))).items()))


def to_table(cls: type[R], rows: Iterable[R]) -> pa.Table:
    """A table of records."""
    import pyarrow as pa

    return pa.Table.from_pylist(
        [{_key(f): _plain(getattr(r, f.name)) for f in fields(r)} for r in rows], schema(cls)
    )


def column_table(cls: type[Record], columns: Mapping[str, Any]) -> pa.Table:
    """A table of records from whole columns, which is fast where there are many rows.

    Args:
        cls: The record of a row.
        columns: By field. An array; a table [rows, k] where a cell is a list; or one value that holds for
            all rows. A field with a default may be missing, and then the table has no such column.

    Raises:
        StoreError: a column is missing, or one that the record does not have is given.
    """
    import pyarrow as pa

    needed = {one.name for one in fields(cls) if _is_needed(one)}
    if wrong := (needed - set(columns)) | (set(columns) - {one.name for one in fields(cls)}):
        raise StoreError(f"{cls.__name__}: columns missing or not known: {', '.join(sorted(wrong))}")
    n = next(len(values) for values in columns.values() if not _is_scalar(values))
    wanted = {one.name: of for one, of in zip(fields(cls), schema(cls), strict=True) if one.name in columns}
    arrays = [_array(columns[name], of.type, n) for name, of in wanted.items()]
    return pa.table(arrays, pa.schema(list(wanted.values())))


def of_table(cls: type[R], table: pa.Table) -> list[R]:
    """The records of a table; further columns are left alone.

    Raises:
        StoreError: a column is missing, there twice, or of another type.
    """
    names = {_key(one): one.name for one in fields(cls)}
    there = [key for key in names if key in table.column_names]
    needed = [_key(one) for one in fields(cls) if _is_needed(one)]
    if missing := [key for key in needed if key not in there]:
        raise StoreError(f"{cls.__name__}: expected columns {', '.join(missing)} in the table, found none")
    wanted = _types(cls, frozenset(there))
    for key in there:
        if table.column_names.count(key) > 1:
            raise StoreError(f"{cls.__name__}: the table has the column {key} more than once")
        kind, own = table.schema.field(key).type, wanted[key]
        if _sort(kind) not in (_sort(own), "null"):
            raise StoreError(f"{cls.__name__}: expected {key} of the type {own}, got {kind}")
    found = table.select(there).rename_columns([names[key] for key in there])
    return [cls(**row) for row in found.to_pylist()]


def write_rows(file: Path, cls: type[R], rows: Iterable[R]) -> None:
    """A Parquet file of records."""
    import pyarrow.parquet as pq

    pq.write_table(to_table(cls, rows), file)


def read_rows(file: Path, cls: type[R]) -> list[R]:
    """The records of a Parquet file."""
    return of_table(cls, read_parquet(file))


def read_parquet(file: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """A Parquet file, some of its columns, those rows that pyarrow's `filters` let through.

    Raises:
        StoreError: it is damaged, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without filters no datasets are needed, nor pandas, which they load.
        read = pq.ParquetFile(file).read if filters is None else partial(pq.read_table, file, filters=filters)
        table = read(columns=columns and list(columns))
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{file} is damaged ({' '.join(str(error).split())})") from None
    if missing := [name for name in columns or () if name not in table.column_names]:
        raise StoreError(f"{file} is damaged, or not ours: it has no {', '.join(missing)}")
    return table


@dataclass(frozen=True, kw_only=True)
class Number(Record):
    """A measured number with what is needed to read it."""

    value: float | int | bool | None
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    n: int | None = None
    """Units behind it: problems, rows, latents, as its definition says."""
    split: str | None = None
    verdict: str | None = None
    p: float | None = None
    n_groups: int | None = None
    p_holm: float | None = None
    """p adjusted for all that was compared with it, which the verdict follows; None where it stood alone."""


@dataclass(frozen=True, kw_only=True)
class Outcome(Record):
    """What a stage measured; a stage's own outcome adds its fields before these."""

    headline: Mapping[str, Number] = field(default_factory=dict)
    """The few numbers that a reader sees first, by name."""
    definitions: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> Json:
        """The stage's own fields, then these."""
        table = super().to_json()
        common = [one.name for one in fields(Outcome)]
        return {k: v for k, v in table.items() if k not in common} | {k: table[k] for k in common}


@cache
def _types(cls: type[Record], keys: frozenset[str]) -> dict[str, pa.DataType]:
    """Arrow type of some columns, in the fields' order."""
    hints = typing.get_type_hints(cls)
    named = {_key(one): one for one in fields(cls) if _key(one) in keys}
    return {key: _arrow(hints[one.name], one.metadata.get("arrow", "")) for key, one in named.items()}


@cache
def _adapter(cls: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _is_needed(one: dataclasses.Field) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _key(one: dataclasses.Field) -> str:
    """Name of a field in files."""
    return one.metadata.get("alias") or one.name


def _plain(value: Any) -> Any:
    if type(value) in PLAIN:
        return value
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    return value


def _arrow(hint: Any, name: str) -> pa.DataType:
    import pyarrow as pa

    arguments = [arg for arg in typing.get_args(hint) if arg is not types.NoneType and arg is not ...]
    if typing.get_origin(hint) in (list, tuple):
        return pa.list_(_arrow(arguments[0], name))
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _arrow(float if set(arguments) == {int, float} else arguments[0], name)
    if name:
        return pa.dictionary(pa.int32(), pa.string()) if name == "dictionary" else pa.type_for_alias(name)
    if typing.get_origin(hint) is typing.Literal:
        return pa.string()
    return {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}[hint]


def _sort(kind: pa.DataType) -> str:
    """What a column holds, whatever its width."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _sort(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {_sort(kind.value_type)}"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else str(kind)


def _is_scalar(values: Any) -> bool:
    return values is None or isinstance(values, str | int | float)


def _array(values: Any, kind: pa.DataType, n: int) -> Any:
    """A column of this Arrow type."""
    import numpy as np
    import pyarrow as pa

    if _is_scalar(values):
        if pa.types.is_dictionary(kind) and n:
            return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([values]))
        return pa.nulls(n, kind) if values is None or not n else pa.repeat(pa.scalar(values, kind), n)
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values if values.type == kind else values.cast(kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    if isinstance(values, np.ndarray) and values.ndim == 2:
        offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1), kind.value_type))
    return pa.array(values, kind)
