"""Labelled texts for classification: a file with a text and a label column, or a set of sae-probes."""

from __future__ import annotations

import difflib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from thoughtlens.core import ConfigError, DataError, NotThereError
from thoughtlens.problems.text.copies import grouped
from thoughtlens.problems.text.files import objects, probe_files, read_csv, readable, table_of

PREFIX = "sae-probes:"
SUFFIXES = (".csv", ".jsonl", ".parquet")
MISSING = "Labelled sets come with the package sae-probes: pip install --no-deps sae-probes"


def labelled(
    source: str, *, text_column: str = "text", label_column: str = "label", group_column: str | None = None
) -> pa.Table:
    """Columns `text`, `label` (as strings) and `group`: copies of a text are one group, up to case,
    space and punctuation, and so are texts with one value in `group_column`.

    Args:
        source: `sae-probes:92_glue_sst2` (a data set inside that package; its own columns are known), or
            a .csv, .jsonl or .parquet file.
        text_column: Column of the texts.
        label_column: Column of the labels; anything with few different values.
        group_column: Texts with the same value are never on both sides of a split.

    Raises:
        NotThereError: no such file, data set or column.
        DataError: a row without text or label, a file that cannot be read, or no rows.
    """
    if source.startswith(PREFIX):
        table = read_csv(_probe_file(source.removeprefix(PREFIX)))
        text_column, label_column = "prompt", "target"
    else:
        table = _read(Path(source).expanduser())
    for name in filter(None, (text_column, label_column, group_column)):
        if name not in table.column_names:
            raise NotThereError(
                f"Expected a column {name!r} in {source}, found {', '.join(table.column_names)}; "
                f"set text_column and label_column"
            )
        if pa.types.is_binary(table[name].type):
            raise DataError(f"Column {name!r} of {source} is not UTF-8; convert the file")
    if not len(table):
        raise DataError(f"Expected labelled texts in {source}, found no rows")
    text, label = table[text_column], table[label_column]
    if not pa.types.is_string(text.type) and not pa.types.is_large_string(text.type):
        raise DataError(f"Expected text in column {text_column!r} of {source}, got {text.type}")
    for name, column in ((text_column, text), (label_column, label)):
        if column.null_count:
            row = column.to_pylist().index(None)
            raise DataError(f"{source} row {row}: nothing in column {name!r}; drop the row or fill it")
    if not all(t.strip() for t in text.to_pylist()):
        row = next(i for i, t in enumerate(text.to_pylist()) if not t.strip())
        raise DataError(f"{source} row {row}: an empty text; drop the row")
    group = (table[group_column] if group_column else text).cast(pa.string())
    first = grouped(text.to_pylist(), group.to_pylist())
    return pa.table({"text": text, "label": label.cast(pa.string()), "group": group.take(pa.array(first))})


def binary_sets() -> list[str]:
    """Names of the sets of two classes in sae-probes, in the order in which its own runner goes through them.

    Raises:
        NotThereError: the package is not installed.
    """
    files = probe_files()
    if not files:
        raise NotThereError(MISSING)
    index = read_csv(next(iter(files.values())).parents[1] / "probing_datasets_MASTER.csv.zst")
    binary = index.filter(pc.field("Data type") == "Binary Classification")
    return [Path(name).name.removesuffix(".csv") for name in binary["Dataset save name"].to_pylist()]


def _probe_file(name: str) -> Path:
    files = probe_files()
    if not files:
        raise NotThereError(MISSING)
    if name not in files:
        near = difflib.get_close_matches(name, files, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; for example {', '.join(list(files)[:3])}"
        raise NotThereError(f"sae-probes has no data set {name!r}{hint}")
    return files[name]


def _read(path: Path) -> pa.Table:
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"data: expected {PREFIX}NAME or a file ending in {', '.join(SUFFIXES)}, got {str(path)!r}"
        )
    if not path.is_file():
        raise NotThereError(f"Expected labelled texts at {path}, found no such file")
    with readable(path):
        if path.suffix == ".jsonl":
            return table_of([row for _, row in objects(path)], str(path))
        table = pq.ParquetFile(path).read() if path.suffix == ".parquet" else read_csv(path)
        table.validate(full=True)
        return table
