"""Records: JSON, Parquet and heads from one definition."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from thoughtlens.core import (
    Number,
    Outcome,
    Record,
    StoreError,
    column,
    column_table,
    of_table,
    read_rows,
    schema,
    to_table,
    write_rows,
)


@dataclass(frozen=True, kw_only=True)
class Row(Record):
    member: str = column("SAE")
    latent: int = column(arrow="int32")
    density: float = column("share of rows")
    words: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Counted(Outcome):
    rows: list[Row]
    best: Number | None = column(default=None, null=True)


ROWS = [
    Row(member="pooled", latent=3, density=0.5, words=("a", "b")),
    Row(member="pooled", latent=4, density=0.0, note="dead"),
]


def test_json_and_back():
    outcome = Counted(rows=ROWS, headline={"x": Number(value=0.5, low=0.4, high=0.6, n=7)})
    table = outcome.to_json()
    assert table["headline"] == {"x": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 7}}
    assert table["best"] is None and "note" not in table["rows"][0]
    assert Counted.from_json(table) == outcome


def test_an_unknown_key_is_left_alone_and_a_missing_one_is_named():
    assert Number.from_json({"value": 1, "later": 2}) == Number(value=1)
    with pytest.raises(StoreError, match="Number: value: Field required"):
        Number.from_json({"n": 1})


def test_whole_numbers_stay_whole():
    assert Number.from_json({"value": 3}).to_json() == {"value": 3}
    assert isinstance(Number.from_json({"value": 3}).value, int)


def test_parquet_and_back(tmp_path):
    write_rows(tmp_path / "t.parquet", Row, ROWS)
    assert [r.latent for r in read_rows(tmp_path / "t.parquet", Row)] == [3, 4]
    assert schema(Row).field("latent").type == pa.int32()
    assert schema(Row).field("words").type == pa.list_(pa.string())
    with pytest.raises(StoreError, match="expected columns density"):
        read_rows(_without(tmp_path / "t.parquet", "density"), Row)


def test_a_field_with_a_default_may_have_no_column(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class More(Row):
        losses: dict[str, float] = field(default_factory=dict)

    write_rows(tmp_path / "t.parquet", Row, ROWS)
    assert read_rows(tmp_path / "t.parquet", More)[0].losses == {}


def test_heads_and_cells_come_from_the_same_fields():
    assert Row.heads() == ["SAE", "latent", "share of rows", "words", "note"]
    assert ROWS[1].cells() == ["pooled", 4, 0.0, (), "dead"]


def _without(file, name):
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(file).drop_columns([name]), file)
    return file


@dataclass(frozen=True, kw_only=True)
class Fires(Record):
    member: str = column(arrow="dictionary")
    latent: int = column(arrow="int32")
    decile: int | None = column(default=None, arrow="int32")
    level: str = column(arrow="dictionary")
    acts: list[float] = column(arrow="float32")
    share: float = column(key="share_0.05")


def test_whole_columns_become_a_table_of_the_record():
    columns = {
        "member": "pooled", "latent": np.arange(3), "level": ["a", "b", "a"], "acts": np.ones((3, 2)),
        "share": [0.5, 0.25, 1],
    }  # fmt: skip
    table = column_table(Fires, columns)
    assert table.column_names == ["member", "latent", "level", "acts", "share_0.05"]
    assert table.schema.equals(pa.schema([f for f in schema(Fires) if f.name != "decile"]))
    first = of_table(Fires, table)[0]
    assert first == Fires(member="pooled", latent=0, level="a", acts=[1.0, 1.0], share=0.5)
    empty = {**columns, "latent": [], "level": [], "acts": [], "share": np.zeros(0)}
    assert column_table(Fires, empty).num_rows == 0
    with pytest.raises(StoreError, match="missing or not known: sharp"):
        column_table(Fires, columns | {"sharp": 1})


def test_a_key_may_be_no_name():
    row = Fires(member="pooled", latent=0, level="a", acts=[1.0], share=0.5)
    assert row.to_json()["share_0.05"] == 0.5 and Fires.from_json(row.to_json()) == row


@pytest.mark.parametrize(
    "other", [pa.array([b"\xff"]), pa.array(["1"]), pa.array([[1]]), pa.array([1], pa.timestamp("s"))]
)
def test_columns_of_another_type_are_named(tmp_path, other):
    row = Fires(member="pooled", latent=0, level="a", acts=[1.0], share=0.5)
    table = to_table(Fires, [row])
    at = table.column_names.index("latent")
    assert of_table(Fires, table.set_column(at, "latent", pa.array([0], pa.int64()))) == [row]
    with pytest.raises(StoreError, match="expected latent of the type"):
        of_table(Fires, table.set_column(at, "latent", other))
    with pytest.raises(StoreError, match="column latent more than once"):
        of_table(Fires, table.append_column("latent", other))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="is damaged"):
        read_rows(tmp_path / "cut.parquet", Fires)
