from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thoughtlens.core import ConfigError, DataError, NotThereError
from thoughtlens.problems.config import GeneratedConfig, Gsm8kConfig, TableConfig
from thoughtlens.problems.tasks import arithmetic
from thoughtlens.problems.tasks.source import count, inputs, problems

ROW = {"problem_id": "a", "group_id": "g", "split": "train", "question": "q", "answer": "1", "cot": ""}


def save(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return TableConfig(source=str(path))


def gsm8k(tmp_path, n=400, **options):
    for split in ("train", "test"):
        answers = [f"{i}+1 = <<{i}+1={i + 1}>>\n#### {i + 1}" for i in range(n)]
        rows = [{"question": f"{split} {i}", "answer": answer} for i, answer in enumerate(answers)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = (tmp_path / "train.jsonl", tmp_path / "test.jsonl")
    return Gsm8kConfig(files=files, **options)


def test_generated_problems_follow_the_seed():
    cfg = GeneratedConfig(n=50)
    assert problems(cfg, seed=3).equals(arithmetic.problems(50, seed=3))
    assert problems(GeneratedConfig(n=50, seed=3), seed=8).equals(arithmetic.problems(50, seed=3))
    assert count(cfg) == 50 and inputs(cfg) == {}
    assert count(GeneratedConfig()) == 20_000


def test_gsm8k_gives_a_share_of_train_to_validation(tmp_path):
    cfg = gsm8k(tmp_path, validation=0.25)
    split = problems(cfg)["split"].to_pylist()
    assert split.count("test") == 400 and split[:400] == ["test"] * 400
    assert 60 < split.count("validation") < 140  # 100 expected, SD 8.7
    assert problems(cfg).equals(problems(cfg))
    assert "validation" not in problems(gsm8k(tmp_path, validation=0.0))["split"].to_pylist()
    assert set(inputs(cfg).values()) == set(cfg.files)


def test_n_problems_are_drawn_from_all_splits_and_classes(tmp_path):
    whole = problems(gsm8k(tmp_path, n=30, validation=0.0))
    assert whole.num_rows == 60
    cfg = gsm8k(tmp_path, n=30, validation=0.0).model_copy(update={"n": 20})
    drawn = problems(cfg)
    ids, every = drawn["problem_id"].to_pylist(), whole["problem_id"].to_pylist()
    assert len(ids) == 20 and ids == [name for name in every if name in ids]
    assert set(drawn["split"].to_pylist()) == {"test", "train"}
    assert problems(cfg).equals(drawn) and not problems(cfg, seed=1).equals(drawn)
    assert problems(cfg.model_copy(update={"n": 99})).equals(whole)


def test_classes(tmp_path):
    cfg = GeneratedConfig(n=300, classes=("mixed", "addition"))
    assert set(problems(cfg)["operation"].to_pylist()) == {"mixed", "addition"}
    with pytest.raises(DataError, match=r"division; there are: .*addition \("):
        problems(GeneratedConfig(n=300, classes=("addition", "division")))
    with pytest.raises(DataError, match="no column operation"):
        problems(save(tmp_path / "p.parquet", [ROW]).model_copy(update={"classes": ("mixed",)}))


def test_a_table_somebody_made(tmp_path):
    rows = [ROW | {"problem_id": str(i), "label": i % 2} for i in range(5)]
    cfg = save(tmp_path / "p.parquet", rows)
    assert problems(cfg).to_pylist() == rows
    assert problems(cfg.model_copy(update={"n": 2})).num_rows == 2
    assert count(cfg) == 5 and inputs(cfg) == {"problems": tmp_path / "p.parquet"}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"question": "q", "answer": "a"}], "problem_id, group_id, split, cot missing"),
        ([ROW | {"split": "dev"}], "got dev"),
        ([ROW, ROW], "1 problem ids occur twice"),
        ([ROW, ROW | {"problem_id": "b", "question": None}], "question has 1 empty"),
    ],
)
def test_tables_that_are_none(tmp_path, rows, says):
    with pytest.raises(DataError, match=says):
        problems(save(tmp_path / "p.parquet", rows))


def test_a_group_torn_between_splits_is_said(tmp_path, capsys):
    names = {"a": "train", "b": "train", "c": "test"}
    whole = [
        ROW | {"problem_id": i, "group_id": split, "split": split, "question": i}
        for i, split in names.items()
    ]
    problems(save(tmp_path / "whole.parquet", whole))
    assert capsys.readouterr().err == ""
    problems(save(tmp_path / "torn.parquet", [row | {"group_id": "pair"} for row in whole]))
    assert "1 groups have problems in several splits (first pair)" in capsys.readouterr().err


def test_files_that_are_none(tmp_path):
    (tmp_path / "p.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        problems(TableConfig(source=str(tmp_path / "p.parquet")))
    with pytest.raises(NotThereError, match="generated, gsm8k or a Parquet table"):
        problems(TableConfig(source="gsm8"))
    with pytest.raises(ConfigError, match="give both"):
        gsm8k(tmp_path)
        problems(Gsm8kConfig(files=(tmp_path / "test.jsonl",), seed_protocol=True))


def damaged(path, kind):
    """A Parquet table with a page, the foot or the text damaged."""
    rows = [ROW | {"problem_id": str(i), "question": f"question {i} of many " * 3} for i in range(400)]
    table = pa.Table.from_pylist(rows)
    if kind == "text":
        broken = pa.array([b"\xff\xfe"] * 400, pa.binary()).view(pa.string())
        table = table.set_column(table.column_names.index("question"), "question", broken)
    pq.write_table(table, path, compression="zstd")
    raw = bytearray(path.read_bytes())
    if kind == "page":
        raw[40:400] = bytes(360)
    path.write_bytes(raw[:-9] if kind == "foot" else raw)
    return TableConfig(source=str(path))


@pytest.mark.parametrize(
    ("kind", "says"), [("page", "not a readable"), ("foot", "not a readable"), ("text", "UTF-8")]
)
def test_a_damaged_table_is_one_line(tmp_path, kind, says):
    with pytest.raises(DataError, match=says) as error:
        problems(damaged(tmp_path / "p.parquet", kind))
    assert "\n" not in str(error.value) and "p.parquet" in str(error.value)


def test_cells_that_are_no_text(tmp_path):
    with pytest.raises(DataError, match=r"expected text in column question, got list"):
        problems(save(tmp_path / "p.parquet", [ROW | {"question": ["a", "b"]}]))
    with pytest.raises(DataError, match="row 1: an empty question"):
        problems(save(tmp_path / "q.parquet", [ROW, ROW | {"problem_id": "b", "question": " "}]))
