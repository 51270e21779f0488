"""Labelled texts from files, and what is wrong with them."""

from __future__ import annotations

import importlib.util

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thoughtlens.core import ConfigError, DataError, NotThereError
from thoughtlens.problems.text.files import probe_files
from thoughtlens.problems.text.labelled import labelled

ROWS = [
    {"text": "good, really", "label": 1},
    {"text": "bad", "label": 0},
    {"text": "good,  really", "label": 1},
]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = ",".join(rows[0]), *(",".join(f'"{v}"' for v in row.values()) for row in rows)
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("\n".join(str(row).replace("'", '"') for row in rows))
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same(tmp_path, suffix):
    table = labelled(write(tmp_path / f"data{suffix}", ROWS))
    assert table["text"].to_pylist() == [row["text"] for row in ROWS]
    assert table["label"].to_pylist() == ["1", "0", "1"]
    groups = table["group"].to_pylist()
    assert groups[0] == groups[2] != groups[1]  # copies up to white space


def test_named_columns(tmp_path):
    rows = [{"q": "a", "y": "left", "who": 3}, {"q": "b", "y": "right", "who": 3}]
    table = labelled(
        write(tmp_path / "d.parquet", rows), text_column="q", label_column="y", group_column="who"
    )
    assert table["label"].to_pylist() == ["left", "right"]
    assert table["group"].to_pylist() == ["3", "3"]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"text": "a", "tag": 1}], NotThereError, "column 'label' in .* found text, tag"),
        ([{"text": 3, "label": 1}], DataError, "Expected text in column 'text' .* got int64"),
        (
            [{"text": "a", "label": 1}, {"text": "b", "label": None}],
            DataError,
            "row 1: nothing in column 'label'",
        ),
        ([{"text": "a", "label": 1}, {"text": "  ", "label": 1}], DataError, "row 1: an empty text"),
    ],
)
def test_bad_tables(tmp_path, rows, error, message):
    with pytest.raises(error, match=message):
        labelled(write(tmp_path / "d.parquet", rows))


def test_bad_files(tmp_path):
    with pytest.raises(NotThereError, match="found no such file"):
        labelled(str(tmp_path / "no.csv"))
    with pytest.raises(ConfigError, match=r"got '.*data.xlsx'"):
        labelled(str(tmp_path / "data.xlsx"))
    (tmp_path / "d.jsonl").write_text('{"text": "a", "label": 1}\n{"text": \n')
    with pytest.raises(DataError, match="line 2 is not JSON"):
        labelled(str(tmp_path / "d.jsonl"))
    (tmp_path / "d.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        labelled(str(tmp_path / "d.parquet"))


@pytest.mark.skipif(importlib.util.find_spec("sae_probes") is None, reason="sae-probes is not installed")
def test_sets_of_sae_probes():
    assert "87_glue_cola" in probe_files()
    table = labelled("sae-probes:87_glue_cola")
    assert set(table["label"].to_pylist()) == {"0", "1"} and len(table) == 5000
    with pytest.raises(NotThereError, match="did you mean '87_glue_cola'"):
        labelled("sae-probes:87_glue_colo")
