"""Published sets: the columns of their files, the answers as they are compared, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thoughtlens.core import ConfigError, DataError, NotThereError
from thoughtlens.problems.config import SetConfig, named
from thoughtlens.problems.tasks import published
from thoughtlens.problems.tasks.source import count, find, inputs

SVAMP = {
    "ID": "chal-1", "Body": "A pack costs 76 dollars", "Question": "How much are 1,000 packs?",
    "Equation": "( 76.0 * 1000.0 )", "Answer": "76,000.0", "Type": "Multiplication",
}  # fmt: skip
CHOICES = [{"label": "A", "text": "ignore"}, {"label": "B", "text": "enforce"}]
COMMONSENSE = {
    "original": {
        "question": {"stem": "What?", "question_concept": "x", "choices": CHOICES}, "answerKey": "B",
    },
    "on the hub": {
        "question": "What?", "question_concept": "x", "answerKey": "B",
        "choices": {"label": ["A", "B"], "text": ["ignore", "enforce"]},
    },
    "with a chain": {"question": "What?\nA: ignore\nB: enforce", "cot": "So.", "answer": "B"},
}  # fmt: skip
ROWS = {
    "svamp": (SVAMP, "A pack costs 76 dollars How much are 1,000 packs?", "76000"),
    "multiarith": (
        {"sQuestion": "She got 39 pens. ", "lSolutions": [39.0], "lEquations": ["X=32+7"]},
        "She got 39 pens.",
        "39",
    ),
    "gsm-hard": ({"input": "How many?", "code": "f()", "target": -9867630.5}, "How many?", "-9867630.5"),
    "strategyqa": ({"question": "Is it?", "answer": True, "term": "it", "facts": ["a"]}, "Is it?", "True"),
    "gsm8k-aug": ({"question": "q", "cot": "<<3*4=12>> <<12-2=10>>", "answer": "10"}, "q", "10"),
    "gsm8k-aug-nl": ({"question": "q", "steps": ["It is 9.", "So 10."], "answer": "#### 1,010"}, "q", "1010"),
}  # fmt: skip


def write(file: Path, rows: list) -> Path:
    file.write_text(json.dumps(rows) if file.suffix == ".json" else "\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.parametrize("source", ROWS)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_files_as_they_are_published(tmp_path, source, ending):
    row, question, answer = ROWS[source]
    cfg = SetConfig(source=source, files=(write(tmp_path / f"test.{ending}", [row]),))
    table = find(cfg).table
    found = table.to_pylist()[0]
    assert (found["question"], found["answer"], found["split"]) == (question, answer, "test")
    assert count(cfg) == 1 and inputs(cfg) == {"problems_0": cfg.files[0]}


@pytest.mark.parametrize("row", COMMONSENSE.values(), ids=COMMONSENSE)
def test_multiple_choice(tmp_path, row):
    hidden = COMMONSENSE["on the hub"] | {"answerKey": ""}
    files = (
        write(tmp_path / "train_rand_split.jsonl", [row]),
        write(tmp_path / "dev_rand_split.jsonl", [row, hidden]),
    )
    table, notes = find(SetConfig(source="commonsenseqa", files=files))
    assert table["question"].to_pylist()[0] == "What?\nA: ignore\nB: enforce"
    assert table["answer"].to_pylist() == ["B", "B"] and table["split"].to_pylist() == ["train", "test"]
    assert "1 rows have no answer and are left out" in notes[0]


def test_chains_with_annotations_have_the_labels_of_gsm8k(tmp_path):
    files = (write(tmp_path / "train.json", [ROWS["gsm8k-aug"][0]]),)
    row = find(SetConfig(source="gsm8k-aug", files=files)).table.to_pylist()[0]
    assert (row["operation"], row["n_steps"], row["v1"], row["v2"]) == ("mixed", 2, 12.0, 10.0)


def test_splits_as_published_or_made(tmp_path):
    rows = [SVAMP | {"Body": f"Pack {i} costs {i} dollars", "ID": i} for i in range(300)]
    files = (write(tmp_path / "train.json", rows), write(tmp_path / "test.json", rows[:3]))
    own = find(SetConfig(source="svamp", files=files[:1], validation=0.2)).table["split"].to_pylist()
    assert set(own) == {"train", "validation"} and 30 < own.count("validation") < 90
    made = find(SetConfig(source="svamp", files=(files[0],), splits="made")).table["split"].to_pylist()
    assert {split: made.count(split) > 10 for split in made} == dict.fromkeys(
        ("train", "validation", "test"), True
    )
    one = tmp_path / "SVAMP.json"
    write(one, rows[:3])
    assert set(find(SetConfig(source="svamp", files=(one,))).table["split"].to_pylist()) == {"test"}


def test_parquet_and_csv(tmp_path):
    table = pa.Table.from_pylist([{"question": "How many?", "final_ans": "39"}])
    pq.write_table(table, tmp_path / "test.parquet")
    (tmp_path / "test.csv").write_text("question,final_ans\nHow many?,39\n")
    for name in ("test.parquet", "test.csv"):
        found = find(SetConfig(source="multiarith", files=(tmp_path / name,))).table
        assert found["answer"].to_pylist() == ["39"]


def test_the_hub_is_read_by_its_splits(monkeypatch):
    read = {}

    def rows(name, subset, split, *, remedy):
        read[split] = name
        return iter([SVAMP])

    monkeypatch.setattr(published, "hub_rows", rows)
    table = find(SetConfig(source="svamp")).table
    assert read == {"train": "ChilleD/SVAMP", "test": "ChilleD/SVAMP"}
    assert table["problem_id"].to_pylist() == ["train_0", "test_0"]
    assert named("svamp") == SetConfig(source="svamp")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"q": 1}], "test.json row 0: not a row of svamp, found q; it lacks 'Body'"),
        ([SVAMP, SVAMP | {"Answer": "n/a"}], "test.json row 1: expected a number as the answer, got 'n/a'"),
        ([SVAMP | {"Body": " ", "Question": ""}], "row 0: an empty question"),
        ([], "test.json is empty"),
        ([3], "expected a list of objects"),
    ],
)
def test_files_that_are_none(tmp_path, rows, says):
    with pytest.raises(DataError, match=says) as error:
        find(SetConfig(source="svamp", files=(write(tmp_path / "test.json", rows),)))
    assert "\n" not in str(error.value)


def test_files_whose_names_do_not_say_the_split(tmp_path):
    file = write(tmp_path / "a.json", [SVAMP])
    with pytest.raises(ConfigError, match="must say train, valid or test"):
        find(SetConfig(source="svamp", files=(file, file)))
    tests = tuple(write(tmp_path / name, [SVAMP]) for name in ("test.json", "test2.json"))
    with pytest.raises(ConfigError, match="Two files are the test split"):
        find(SetConfig(source="svamp", files=tests))
    with pytest.raises(NotThereError, match=r"none\.json"):
        find(SetConfig(source="svamp", files=(tmp_path / "none.json",)))
