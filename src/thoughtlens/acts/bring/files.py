"""Arrays and columns out of files, by name; large arrays stay on disk."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thoughtlens.core import DataError, NotThereError

Named = dict[str, Any]
"""Arrays, lists and plain values by name; inside of groups as `group/name`."""
BATCH_ROWS = 4096
UNREADABLE = (
    OSError, ValueError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile, pa.ArrowException,
    SafetensorError,
)  # fmt: skip


def parts_of(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or those of an Arrow data set."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise NotThereError(f"Expected a file of activations at {path}, found nothing there")
    if found := sorted(path.glob("*.arrow")) or sorted(path.glob("*.parquet")):
        return found
    raise DataError(f"{path} is a directory without .arrow or .parquet files; name the files themselves")


def opened(path: Path, scratch: Path) -> Named:
    """What a file holds, by name.

    Args:
        path: The file.
        scratch: Where arrays are unpacked that cannot stay where they are.

    Raises:
        DataError: another format, damaged, or objects that would have to run code.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: expected one of {', '.join(READERS)}, got {path.suffix or 'no ending'}")
    try:
        return reader(path, scratch)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds Python objects, which could run code when they are loaded, so it was not opened: "
            f"save a dict of tensors, lists, numbers and text ({_line(error)})"
        ) from None
    except UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        if "allow_pickle" in str(error) or "bjects in dtype" in str(error) or "Object arrays" in str(error):
            raise DataError(
                f"{path} has an array of Python objects, which could run code: save numbers or text "
                f"(x.astype(float), x.astype(str))"
            ) from None
        raise DataError(f"{path} is damaged, or no {path.suffix} file: {_line(error)}") from None


def flat(value: Any, name: str = "") -> Named:
    """Nested tables as one, with `/` between their names."""
    if not isinstance(value, Mapping):
        return {name or "activations": value}
    return {
        inner: leaf
        for key, one in value.items()
        for inner, leaf in flat(one, f"{name}/{key}" if name else str(key)).items()
    }


def _torch(path: Path, scratch: Path) -> Named:
    del scratch
    return flat(torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)))


def _npy(path: Path, scratch: Path) -> Named:
    del scratch
    return {"activations": np.load(path, mmap_mode="r", allow_pickle=False)}


def _npz(path: Path, scratch: Path) -> Named:
    found: Named = {}
    with zipfile.ZipFile(path) as archive:
        for i, member in enumerate(archive.namelist()):
            target = scratch / f"{len(list(scratch.iterdir()))}_{i}.npy"
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 22)
            found[member.removesuffix(".npy")] = np.load(target, mmap_mode="r", allow_pickle=False)
    return found


def _safetensors(path: Path, scratch: Path) -> Named:
    del scratch
    return dict(load_file(path))


def _hdf5(path: Path, scratch: Path) -> Named:
    del scratch
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError(f"{path}: HDF5 needs the package h5py: pip install h5py") from None
    found: Named = {}
    file = h5py.File(path, "r")
    file.visititems(lambda name, one: found.update({name: one} if isinstance(one, h5py.Dataset) else {}))
    return {
        name: [v.decode() if isinstance(v, bytes) else v for v in one[()].tolist()] if one.ndim == 1 else one
        for name, one in found.items()
    }


def _parquet(path: Path, scratch: Path) -> Named:
    with pq.ParquetFile(path) as file:
        return _batches(file.iter_batches(BATCH_ROWS), path, scratch)


def _arrow(path: Path, scratch: Path) -> Named:
    with pa.memory_map(str(path)) as source:
        try:
            return _batches(iter(pa.ipc.open_stream(source)), path, scratch)
        except pa.ArrowInvalid:
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(i) for i in range(file.num_record_batches))
            return _batches(batches, path, scratch)


def _json_lines(path: Path, scratch: Path) -> Named:
    with path.open(encoding="utf-8") as file:
        return _records((json.loads(line) for line in file if line.strip()), path, scratch)


def _json(path: Path, scratch: Path) -> Named:
    table = json.loads(path.read_text("utf-8"))
    if isinstance(table, list):
        return _records(iter(table), path, scratch)
    return {name: _maybe_array(value) for name, value in flat(table).items()}


READERS = {
    ".pt": _torch,
    ".pth": _torch,
    ".bin": _torch,
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".jsonl": _json_lines,
    ".json": _json,
}


class _Spool:
    """Vectors of a column, put into a file one after the other."""

    def __init__(self, path: Path, where: str) -> None:
        self._file, self._path, self._where = path.open("wb"), path, where
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float32)
        self._n = 0

    def add(self, x: np.ndarray) -> None:
        """Vectors [n, ...] of one shape."""
        if not self._n:
            self._shape, self._dtype = x.shape[1:], x.dtype
        if x.shape[1:] != self._shape:
            raise DataError(
                f"{self._where} is ragged: {list(self._shape)} numbers in each row up to {self._n}, then "
                f"{list(x.shape[1:])}; make all rows of one width"
            )
        x.astype(self._dtype, copy=False).tofile(self._file)
        self._n += len(x)

    def done(self) -> np.ndarray:
        """All of them, on disk."""
        self._file.close()
        return np.memmap(self._path, self._dtype, "r", shape=(self._n, *self._shape))


def _spool(scratch: Path, where: str) -> _Spool:
    return _Spool(scratch / f"{len(list(scratch.iterdir()))}.raw", where)


def _batches(batches: Iterator[pa.RecordBatch], path: Path, scratch: Path) -> Named:
    spools: dict[str, _Spool] = {}
    columns: dict[str, list] = {}
    for batch in batches:
        for field, column in zip(batch.schema, batch.columns, strict=True):
            where = f"{path}: column {field.name}"
            if (inner := _numbers_in(field.type)) is not None and pa.types.is_floating(inner):
                if field.name not in spools:
                    spools[field.name] = _spool(scratch, where)
                if len(column):
                    spools[field.name].add(_unnested(column, where))
            elif pa.types.is_struct(field.type):
                raise DataError(f"{where} is a table of its own; make its fields columns")
            else:
                columns.setdefault(field.name, []).extend(column.to_pylist())
    return columns | {name: spool.done() for name, spool in spools.items()}


def _numbers_in(kind: pa.DataType) -> pa.DataType | None:
    """The type of the numbers in lists, of lists."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return None
    return kind.value_type if pa.types.is_primitive(kind.value_type) else _numbers_in(kind.value_type)


def _unnested(column: pa.Array, where: str) -> np.ndarray:
    """Lists of one length, of lists, as one array."""
    shape = [len(column)]
    while not pa.types.is_primitive(column.type):
        if column.null_count:
            raise DataError(f"{where} has rows without a vector; drop them")
        lengths = np.unique(pc.call_function("list_value_length", [column]).to_numpy())
        if len(lengths) > 1:
            raise DataError(
                f"{where} is ragged: from {lengths[0]} to {lengths[-1]} numbers in a row; make "
                f"all of one width"
            )
        column = column.flatten()
        shape.append(int(lengths[0]))
    if column.null_count:
        raise DataError(f"{where} has numbers that are missing; drop those rows")
    return column.to_numpy(zero_copy_only=False).reshape(shape)


def _records(records: Iterator[Any], path: Path, scratch: Path) -> Named:
    spools: dict[str, _Spool] = {}
    columns: dict[str, list] = {}
    for i, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise DataError(f"{path}: expected an object in every line, got {type(record).__name__} in {i}")
        for name, value in flat(record).items():
            value = _maybe_array(value, f"{path}: {name} of record {i}")
            known = spools if isinstance(value, np.ndarray) else columns
            if i and name not in known:
                raise DataError(f"{path}: record {i} has another kind of {name} than those before it")
            if isinstance(value, np.ndarray):
                if name not in spools:
                    spools[name] = _spool(scratch, f"{path}: {name}")
                spools[name].add(value[None])
            else:
                columns.setdefault(name, []).append(value)
        if short := [name for name, values in columns.items() if len(values) <= i]:
            raise DataError(f"{path}: record {i} has no {short[0]}")
    return columns | {name: spool.done() for name, spool in spools.items()}


def _maybe_array(value: Any, where: str = "") -> Any:
    """Lists of floats, of lists, as an array; anything else as it is."""
    leaf = value
    while isinstance(leaf, list) and leaf:
        leaf = leaf[0]
    if not isinstance(value, list) or not isinstance(leaf, float):
        return value
    try:
        return np.asarray(value, np.float32)
    except (ValueError, TypeError):
        raise DataError(f"{where or 'an array'} is ragged or has gaps; make all rows of one width") from None


def is_vectors(value: Any) -> bool:
    """Whether it is an array of floats with two axes or more."""
    if isinstance(value, Tensor):
        return value.ndim > 1 and value.is_floating_point()
    return getattr(value, "ndim", 0) > 1 and np.dtype(value.dtype).kind == "f"


def as_list(value: Any) -> list | None:
    """A column's values; None of what is no column."""
    if isinstance(value, Tensor | np.ndarray):
        return value.tolist() if value.ndim == 1 else None
    return list(value) if isinstance(value, list | tuple) else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
