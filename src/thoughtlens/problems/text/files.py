"""Files of texts and problems: JSON lines, Parquet, CSV, and the data sets of the package sae-probes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from thoughtlens.core import DataError, Json, NotThereError, ThoughtlensError


def lines(path: Path) -> Iterator[str]:
    """Lines of a text file, streamed.

    Raises:
        DataError: not UTF-8; says where.
    """
    with path.open("rb") as handle:
        for i, raw in enumerate(handle, start=1):
            try:
                yield raw.decode("utf-8-sig" if i == 1 else "utf-8").replace("\r\n", "\n")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path} line {i} is not UTF-8 (byte {raw[error.start]:#04x}); convert the file, "
                    f"for example with iconv -t UTF-8"
                ) from None


def objects(path: Path) -> Iterator[tuple[str, Json]]:
    """The rows of a .jsonl, .parquet, .csv or .json file with their places, `row 0` or `line 1`.

    JSON lines and Parquet are streamed. A .json file holds a list of objects, or an object of objects.

    Raises:
        DataError: not such a file, or not UTF-8; says where.
    """
    if path.suffix in (".parquet", ".csv", ".json"):
        read = {".parquet": _parquet, ".csv": _csv, ".json": _json}[path.suffix]
        yield from ((f"row {i}", row) for i, row in enumerate(read(path)))
        return
    for i, line in enumerate(lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half a character, which no file can hold
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {i} is not JSON: {error.msg} at column {error.colno}") from None
        except UnicodeEncodeError:
            raise DataError(f"{path} line {i} holds half a character, as \\ud800 alone; mend it") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} line {i} cannot be read: {str(error).splitlines()[0]}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path} line {i}: expected a JSON object, got a {type(row).__name__}")
        yield f"line {i}", row


def _parquet(path: Path) -> Iterator[Json]:
    with readable(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


def _csv(path: Path) -> Iterator[Json]:
    if not path.stat().st_size:
        return
    with readable(path):
        yield from read_csv(path).to_pylist()


def _json(path: Path) -> Iterator[Json]:
    text = "".join(lines(path))
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {str(error).splitlines()[0]}") from None
    for i, row in enumerate(
        rows.values() if isinstance(rows, dict) else rows if isinstance(rows, list) else [0]
    ):
        if not isinstance(row, dict):
            raise DataError(f"{path} row {i}: expected a list of objects, found a {type(row).__name__}")
        yield row


def table_of(rows: Sequence[Json], where: str, schema: pa.Schema | None = None) -> pa.Table:
    """Rows as a table.

    Raises:
        DataError: a column mixes types; says which, and where.
    """
    try:
        return pa.Table.from_pylist(rows, schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise DataError(f"{where}: {_mixed(rows) or str(error).splitlines()[0][:200]}") from None


def _mixed(rows: Sequence[Json]) -> str | None:
    """The first column whose values are of several types."""
    for name in rows[0]:
        first: dict[type, int] = {}
        for i, row in enumerate(rows):
            if (value := row.get(name)) is not None:
                first.setdefault(float if type(value) is int else type(value), i)
        if len(first) > 1:
            places = ", ".join(f"{type(rows[i][name]).__name__} in row {i}" for i in first.values())
            return f"column {name!r} mixes types ({places}); write it with one"
    return None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Within the block a Parquet or CSV file is read: whatever is wrong with it becomes one line.

    Raises:
        DataError: damaged, of another format, or with text that is not UTF-8.
    """
    try:
        yield
    except UnicodeDecodeError:
        raise DataError(f"{path} holds text that is not UTF-8; write it again as UTF-8") from None
    except (pa.ArrowException, OSError) as error:  # Arrow gives OSError for pages that do not decompress
        if isinstance(error, OSError) and (error.errno is not None or isinstance(error, ThoughtlensError)):
            raise  # of the system, not of the file
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "UTF8" in said or "UTF-8" in said:
            raise DataError(f"{path} holds text that is not UTF-8; write it again as UTF-8") from None
        kind = path.suffix.removeprefix(".") if path.suffix in (".csv", ".json", ".jsonl") else "Parquet"
        raise DataError(f"{path} is not a readable {kind} file: {said[:200]}") from None


def hub_rows(name: str, subset: str | None, split: str, *, remedy: str, **options: Any) -> Iterator[Json]:
    """The rows of a data set on the hub, through the library `datasets`.

    Args:
        name: The data set.
        subset: Its configuration.
        split: Its split.
        remedy: What the caller's user can give instead.
        options: Further ones of `datasets.load_dataset`.

    Raises:
        NotThereError: no such data set, or the library or the hub is not there.
    """
    if importlib.util.find_spec("datasets") is None:
        raise NotThereError(
            f"Reading the data set {name!r} needs the package datasets: pip install datasets; {remedy}"
        )
    from datasets import load_dataset  # optional, and slow to import
    from datasets.exceptions import DatasetsError

    try:
        yield from load_dataset(name, subset, split=split, **options)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise NotThereError(
            f"Data set {name!r} (subset {subset}, split {split}) cannot be read: "
            f"{' '.join([type(error).__name__, *str(error).strip().splitlines()[:1]])}; {remedy}"
        ) from None


def read_csv(path: Path, types: dict[str, pa.DataType] | None = None) -> pa.Table:
    """A .csv or .csv.zst file; with `types` only these columns."""
    with pa.OSFile(str(path)) as file:
        return pyarrow.csv.read_csv(
            pa.CompressedInputStream(file, "zstd") if path.suffix == ".zst" else file,
            read_options=pyarrow.csv.ReadOptions(block_size=1 << 26),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(types or ()), column_types=types or {}
            ),
        )


def probe_files() -> dict[str, Path]:
    """Files of the data sets inside the package sae-probes by name; none where it is not installed."""
    spec = importlib.util.find_spec("sae_probes")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for f in folders for file in (Path(f) / "data" / "cleaned_data").glob("*.csv.zst")]
    return {file.name.removesuffix(".csv.zst"): file for file in sorted(files)}
