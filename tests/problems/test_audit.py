"""Two ways of labelling side by side, counted by hand."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from thoughtlens.core import ConfigError, DataError
from thoughtlens.problems.tasks import gsm8k
from thoughtlens.problems.tasks.audit import audit, markdown, reachable

SOLUTIONS = [
    "3 + 4 = <<3+4=7>>7\n#### 7",
    "60*.30 = <<60*.30=18>>18, then 60 - 18 = <<60-18=42>>42\n#### 42",
    "5 * 6 = <<5*6=30>>30\n#### 30",
    "half of it is <<20/2=10>>10\n#### 10",
    "just 7\n#### 7",
]


@pytest.fixture
def table(tmp_path):
    lines = [json.dumps({"question": f"question {i}?", "answer": a}) for i, a in enumerate(SOLUTIONS)]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    return gsm8k.table([tmp_path / "test.jsonl"])


def test_by_hand(table):
    found = audit(table)
    # by expression: addition, addition (60*.30 is missed), multiplication, multiplication (20/2), mixed;
    # by annotation: addition, mixed, multiplication, multiplication, none
    assert (found.n, found.n_compared, found.unlabelled, found.n_differ) == (5, 4, 1, 1)
    assert found.disagreement.value == 0.25 and found.ceiling.value == 0.75
    assert found.ceiling_all == pytest.approx(3 / 5)
    assert [d.problem_id for d in found.disagreements or []] == ["test_1"]
    rows = {row.name: row for row in found.per_class}
    assert rows["addition"].by_annotation == {"addition": 1, "multiplication": 0, "mixed": 1}
    assert rows["addition"].precision == 0.5 and rows["multiplication"].precision == 1.0
    assert found.to_json()["per_class"][2] == {
        "class": "mixed",
        "n": 1,
        "by_annotation": {"addition": 0, "multiplication": 0, "mixed": 0},
        "unlabelled": 1,
        "precision": None,
    }


def test_page_lists_every_disagreement(table):
    text = markdown(audit(table))
    assert "| test_1 | addition | mixed | 60*.30=18; 60-18=42 |" in text
    assert "1 of 4 problems" in text and "25.0%" in text


def test_reachable_by_hand():
    assert reachable(1.0, 0.1, 3) == pytest.approx(0.9)
    # right and kept 0.8 * 0.9; wrong, and the label was moved onto the guess: 0.2 * 0.1 / 2
    assert reachable(0.8, 0.1, 3) == pytest.approx(0.73)
    with pytest.raises(ConfigError, match="disagreement"):
        reachable(0.5, 1.2, 3)


def test_what_cannot_be_compared(table):
    with pytest.raises(ConfigError, match="label_regex"):
        audit(table.drop_columns(["label_regex"]))
    empty = table.set_column(
        table.column_names.index("label_annotation"), "label_annotation", pa.nulls(len(table), pa.string())
    )
    with pytest.raises(DataError, match="nothing can be compared"):
        audit(empty)
