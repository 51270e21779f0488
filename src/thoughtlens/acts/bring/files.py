"""Arrays and columns out of files, by name; large arrays stay on disk."""

from __future__ import annotations

import json
import math
import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from torch import Tensor

from thoughtlens.acts.bring.arrays import InFile, is_vectors
from thoughtlens.core import ITEM_BYTES, DataError, NotThereError, StoreError, read_head

Named = dict[str, Any]
"""Arrays, columns (`pa.Array`) and plain values by name; inside of groups as `group/name`."""
BATCH_ROWS = 4096
MAX_JSON_BYTES = 1 << 28
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile, pa.ArrowException)
SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U8": "u1", "BOOL": "?",
}  # fmt: skip
NO_PICKLES = "a pickle runs code when it is opened; save arrays and lists with torch.save or np.savez"
INSTEAD = {
    ".gz": "unpack it first: gunzip {}",
    ".bz2": "unpack it first: bunzip2 {}",
    ".zip": "unpack it first: unzip {}",
    ".tar": "unpack it first: tar -xf {}",
    ".pkl": NO_PICKLES,
    ".pickle": NO_PICKLES,
}


BY_SPLIT = "dataset_dict.json"
"""In the folder of a data set that has a folder for each split."""


def parts_of(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or those of an Arrow data set, or of several, by split."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise NotThereError(f"Expected a file of activations at {path}, found nothing there")
    if (splits := path / BY_SPLIT).is_file():
        return [part for split in _listed(splits, "splits") for part in parts_of(path / str(split))]
    if (state := path / "state.json").is_file():
        return [path / one["filename"] for one in _listed(state, "_data_files")]
    if found := sorted(path.glob("*.arrow")) or sorted(path.glob("*.parquet")):
        return found
    inside = sorted(quote(str(one)) for one in path.iterdir() if one.suffix in READERS or one.is_dir())
    named = f", as in: {' '.join(inside[:3])}" if inside else ""
    raise DataError(
        f"{path} is a directory without .arrow or .parquet files; name the files themselves{named}"
    )


def _listed(file: Path, key: str) -> list[Any]:
    """What a data set's own file lists."""
    try:
        return list(json.loads(file.read_text("utf-8"))[key])
    except (ValueError, LookupError, TypeError):
        raise DataError(f"{file} is damaged: it does not list the files of a data set") from None


def _with_split(path: Path, table: Named) -> Named:
    """With a column of the split, where a data set has a folder for each."""
    column = next((one for one in table.values() if isinstance(one, pa.Array)), None)
    if not (path.parent.parent / BY_SPLIT).is_file() or "split" in table or column is None:
        return table
    return {**table, "split": pa.array([path.parent.name] * len(column), pa.string())}


def opened(path: Path, scratch: Path) -> Named:
    """What a file holds, by name.

    Args:
        path: The file.
        scratch: Where arrays are unpacked that cannot stay where they are.

    Raises:
        DataError: another format, damaged, or objects that would have to run code.
    """
    ending = path.suffix.lower()
    if (reader := READERS.get(ending)) is None:
        known = f"expected one of {', '.join(READERS)}, got {ending or 'no ending'}"
        way = INSTEAD[ending].format(quote(str(path))) if ending in INSTEAD else known
        raise DataError(f"{path}: {way}")
    try:
        return _with_split(path, tidy(reader(path, scratch)))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({found[1]})" if found else ""
        way = "tensors (torch.from_numpy of an array)" if "numpy" in what else "tensors"
        raise DataError(
            f"{path} holds Python objects{what}, which could run code when they are loaded, so it was not "
            f"opened: save a dict of {way}, lists, numbers and text"
        ) from None
    except StoreError as error:
        raise DataError(str(error)) from None
    except UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        if "allow_pickle" in str(error) or "bjects in dtype" in str(error) or "Object arrays" in str(error):
            raise DataError(
                f"{path} has an array of Python objects, which could run code: save numbers or text "
                f"(x.astype(float), x.astype(str))"
            ) from None
        said = " ".join(str(error).partition(" In PyTorch 2.6")[0].split())[:200]
        why = f": {said}" if len(said) > len("101") else ""  # some libraries say a key and nothing else
        raise DataError(f"{path} is damaged, or no {path.suffix} file{why}") from None


def flat(value: Any, name: str = "") -> Named:
    """Nested tables as one, with `/` between their names."""
    if not isinstance(value, Mapping):
        return {name or "activations": value}
    return {
        inner: leaf
        for key, one in value.items()
        for inner, leaf in flat(one, f"{name}/{key}" if name else str(key)).items()
    }


def tidy(table: Mapping[str, Any]) -> Named:
    """The same with every list, and every array of one axis, as a column."""
    plain = {n: v.detach().to_dense() if isinstance(v, Tensor) else v for n, v in table.items()}
    return {name: value if is_vectors(value) else _column(value, name) for name, value in plain.items()}


def _column(value: Any, name: str) -> Any:
    """As a column, where it is one, or as vectors; values of several types are text."""
    if getattr(value, "ndim", 1) != 1 or isinstance(value, str | bytes | Mapping):
        return value
    if isinstance(value, InFile):
        value = value[0 : len(value)]
    if isinstance(value, Tensor):
        value = value.cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    elif not isinstance(value, pa.Array | pa.ChunkedArray | list | tuple) and hasattr(value, "__array__"):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        value = _plain(value)
    if not isinstance(value, pa.Array | pa.ChunkedArray | np.ndarray | list | tuple):
        return value
    try:
        found = value.combine_chunks() if isinstance(value, pa.ChunkedArray) else pa.array(value)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        if any(not isinstance(v, str | bool | int | float | None) for v in value):
            return value
        found = pa.array(None if v is None else str(v) for v in value)
    if pa.types.is_dictionary(found.type):
        found = found.dictionary_decode()
    if (inner := _numbers_in(found.type)) is not None and pa.types.is_floating(inner):
        return _unnested(found, name)
    return found.cast(pa.string()) if pa.types.is_large_string(found.type) else found


def _plain(x: np.ndarray) -> np.ndarray | list:
    """A column of numpy in a type and byte order that Arrow knows."""
    if x.dtype.kind == "S":
        return np.char.decode(x, "utf-8")
    if x.dtype.kind == "f" and x.dtype.itemsize not in (4, 8):
        return x.astype(np.float32 if x.dtype.itemsize == 2 else np.float64)
    return x.tolist() if x.dtype.kind == "O" else x.astype(x.dtype.newbyteorder("="), copy=False)


def _torch(path: Path, scratch: Path) -> Named:
    del scratch
    if not zipfile.is_zipfile(path):
        with warnings.catch_warnings(action="ignore"):  # about the pickle protocols of other programs
            return flat(torch.load(path, map_location="cpu", weights_only=True))
    places: list[int] = []

    def note(storage: Any, location: str) -> Any:
        del location
        places.append(storage.data_ptr())
        return storage

    table = flat(torch.load(path, map_location=note, weights_only=True, mmap=True))
    starts = _starts(path)
    base = min(places, default=0) - min(starts, default=0)
    if sorted(places) != [base + start for start in sorted(starts)]:
        return table
    return {name: _unmapped(value, path, base) for name, value in table.items()}


def _starts(path: Path) -> list[int]:
    """First bytes of the tensors in a file of `torch.save`, which is a zip that compresses nothing."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        found = []
        for one in archive.infolist():
            if "/data/" in one.filename:
                file.seek(
                    one.header_offset + 26
                )  # the file's own header: lengths of its name and extra field
                name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
                found.append(one.header_offset + 30 + name + extra)
        return found


def _unmapped(value: Any, path: Path, base: int) -> Any:
    """A tensor of a mapped file as an array in the file, so that its pages do not stay in memory."""
    if not isinstance(value, Tensor) or not (is_vectors(value) and value.is_contiguous() and value.numel()):
        return value
    value = value.detach()
    dtype = value.dtype if value.dtype == torch.bfloat16 else value[:0].numpy().dtype
    found = InFile(path, dtype, value.shape, value.data_ptr() - base)
    ends = [(a, a + 1) for a in (0, len(value) - 1)]
    same = all(torch.equal(torch.as_tensor(found[slice(*at)]).view(torch.uint8),
                           value[slice(*at)].view(torch.uint8)) for at in ends)  # fmt: skip
    return found if same else value


def _npy(path: Path, scratch: Path) -> Named:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if mapped.ndim < 2 or mapped.flags.c_contiguous:
        where = getattr(mapped, "offset", 0)
        return {"activations": InFile(path, mapped.dtype, mapped.shape, where) if mapped.ndim else mapped[()]}
    spool = _spool(scratch, str(path))
    for start in range(0, len(mapped), BATCH_ROWS):  # opened anew, since pages of a map stay in memory
        spool.add(np.load(path, mmap_mode="r")[start : start + BATCH_ROWS])
    return {"activations": spool.done()}


def _npz(path: Path, scratch: Path) -> Named:
    found: Named = {}
    with zipfile.ZipFile(path) as archive:
        for i, member in enumerate(archive.namelist()):
            target = scratch / f"{len(list(scratch.iterdir()))}_{i}.npy"
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 22)
            found[member.removesuffix(".npy")] = _npy(target, scratch)["activations"]
    return found


def _safetensors(path: Path, scratch: Path) -> Named:
    del scratch
    found: Named = {}
    for name, one in read_head(path).items():
        if not one.shape:
            continue
        dtype = torch.bfloat16 if one.dtype == "BF16" else SAFETENSORS.get(one.dtype)
        if dtype is None:
            raise DataError(f"{path}: {name} has the type {one.dtype}, which is not read; save it as float32")
        if one.end - one.start != math.prod(one.shape) * ITEM_BYTES[one.dtype]:
            raise DataError(
                f"{path} is damaged: {name} has other bytes than its shape {list(one.shape)} needs"
            )
        dtype = dtype if isinstance(dtype, torch.dtype) else np.dtype(dtype)
        found[name] = InFile(path, dtype, one.shape, one.start)
    return found


def _hdf5(path: Path, scratch: Path) -> Named:
    del scratch
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError(f"{path}: HDF5 needs the package h5py: pip install 'thoughtlens[hdf5]'") from None
    found: Named = {}
    file = h5py.File(path, "r")
    file.visititems(lambda name, one: found.update({name: one} if isinstance(one, h5py.Dataset) else {}))
    return {name: one if one.ndim > 1 else _of_hdf5(one[()]) for name, one in found.items()}


def _of_hdf5(value: Any) -> Any:
    """A column of HDF5, whose texts are bytes."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return [v.decode() if isinstance(v, bytes) else v for v in value]
    return value


def _parquet(path: Path, scratch: Path) -> Named:
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        return _batches(file.iter_batches(BATCH_ROWS), path, scratch)


def _arrow(path: Path, scratch: Path) -> Named:
    with pa.OSFile(str(path)) as source:
        try:
            return _batches(iter(pa.ipc.open_stream(source)), path, scratch)
        except pa.ArrowInvalid:
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(i) for i in range(file.num_record_batches))
            return _batches(batches, path, scratch)


def _csv(path: Path, scratch: Path) -> Named:
    del scratch
    table = pyarrow.csv.read_csv(path)
    return {name: table[name] for name in table.column_names}


def _json_lines(path: Path, scratch: Path) -> Named:
    with path.open(encoding="utf-8") as file:
        return _records((json.loads(line) for line in file if line.strip()), path, scratch)


def _json(path: Path, scratch: Path) -> Named:
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise DataError(
            f"{path} has {size / 1e6:,.0f} MB, and a .json file is read whole, up to "
            f"{MAX_JSON_BYTES / 1e6:,.0f} MB: write JSON lines (.jsonl), one object for each row"
        )
    table = json.loads(path.read_text("utf-8"))
    if isinstance(table, list):
        return _records(iter(table), path, scratch)
    nested = {n: v for n, v in flat(table).items() if isinstance(v, list) and v and isinstance(v[0], list)}
    return flat(table) | {name: _maybe_array(value, f"{path}: {name}") for name, value in nested.items()}


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
    ".csv": _csv,
}


class _Spool:
    """Vectors of a column, put into a file one after the other."""

    def __init__(self, path: Path, where: str) -> None:
        self._file, self._path, self._where = path.open("wb"), path, where
        self._shape: tuple[int, ...] = (0,)
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

    def done(self) -> InFile:
        """All of them, on disk."""
        self._file.close()
        return InFile(self._path, self._dtype, (self._n, *self._shape))


def _spool(scratch: Path, where: str) -> _Spool:
    return _Spool(scratch / f"{len(list(scratch.iterdir()))}.raw", where)


def _batches(batches: Iterator[pa.RecordBatch], path: Path, scratch: Path) -> Named:
    spools: dict[str, _Spool] = {}
    columns: dict[str, list[pa.Array]] = {}
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
                decoded = pa.types.is_dictionary(field.type)
                columns.setdefault(field.name, []).append(column.dictionary_decode() if decoded else column)
    joined = {name: pa.concat_arrays(parts) for name, parts in columns.items()}
    return joined | {name: spool.done() for name, spool in spools.items()}


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


def _records(records: Iterable[Any], path: Path, scratch: Path) -> Named:
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


def _maybe_array(value: Any, where: str) -> Any:
    """Lists of numbers with a float among them, and lists of such, as an array; anything else as it is."""
    first = value
    while isinstance(first, list) and first and isinstance(first[0], list):
        first = first[0]
    if not isinstance(first, list) or not any(isinstance(v, float) for v in first):
        return value
    try:
        return np.asarray(value, np.float32)
    except (ValueError, TypeError):
        raise DataError(f"{where} is ragged or has gaps; make all rows of one width") from None
