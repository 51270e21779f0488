from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thoughtlens.core import ConfigError, DataError, NotThereError
from thoughtlens.problems.tasks import gsm8k

SOLUTIONS = {
    "add": "He has 3 + 4 = <<3+4=7>>7 hens.\nThen 7 - 2 = <<7-2=5>>5.\n#### 5",
    "mul": "That is 3 * 4 = <<3*4=12>>12 eggs.\n#### 12",
    "mix": "She makes 16 - 3 = <<16-3=13>>13, so 13 * 2 = $<<13*2=26>>26 a day.\n#### 1,026",
    "none": "There are ten.\n#### 10",
}


def write(path: Path, kinds: list[str]) -> Path:
    lines = [
        json.dumps({"question": f"{path.stem} {i}?", "answer": SOLUTIONS[k]}) for i, k in enumerate(kinds)
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_columns(tmp_path):
    table = gsm8k.table([write(tmp_path / "test.jsonl", ["mix", "none", "add"])])
    assert table.column_names == [
        "problem_id", "group_id", "split", "question", "answer", "cot", "operation", "n_steps", "v1", "v2",
        "label_regex", "label_annotation",
    ]  # fmt: skip
    first, second, third = table.to_pylist()
    assert first | {"cot": ""} == {
        "problem_id": "test_0", "group_id": "test_0", "split": "test", "question": "test 0?",
        "answer": "1026", "cot": "", "operation": "mixed", "n_steps": 2, "v1": 13.0, "v2": 26.0,
        "label_regex": "mixed", "label_annotation": "mixed",
    }  # fmt: skip
    assert first["cot"].endswith("<<13*2=26>>26 a day.")
    assert (second["operation"], second["label_regex"], second["n_steps"], second["v1"]) == (
        None,
        "mixed",
        0,
        None,
    )
    assert (third["operation"], third["v2"]) == ("addition", 5.0)


@pytest.mark.parametrize(
    ("solution", "words", "annotations"),
    [
        ("60*.30 = <<60*.30=18>>18, 20 - 18 = <<20-18=2>>2", "addition", "mixed"),
        ("3 x 4 = <<3*4=12>>12", "multiplication", "multiplication"),
        ("-5 + 3 = <<-5+3=-2>>-2", "addition", "addition"),
        ("it is <<5*-2=-10>>-10", "mixed", "multiplication"),
        ("<<(2+3)/5=1>>1", "addition", "mixed"),
        ("half, <<10/2=5>>5", "multiplication", "multiplication"),
        ("2 - 1 is one", "addition", None),
        ("<<5=5>>5", "mixed", None),
        ("no numbers", "mixed", None),
    ],
)
def test_labels(solution, words, annotations):
    assert gsm8k.label_by_words(solution) == words
    assert gsm8k.label_by_annotations(solution) == annotations


def test_values():
    assert gsm8k.values("<<3*4=12>> <<12*1000=12,000>> <<1/3=.33>> <<a=b>>") == [12.0, 12000.0, 0.33, None]


def test_operation_from_words_or_annotations(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"question": "q", "answer": "60*.30 = <<60*.30=18>>18, 9 - 8\n#### 1"}))
    got = {labels: gsm8k.table([file], labels=labels)["operation"].to_pylist() for labels in gsm8k.LABELS}
    assert got == {"annotations": ["multiplication"], "regex": ["addition"]}
    with pytest.raises(ConfigError, match="annotations, regex"):
        gsm8k.table([file], labels="words")


def test_test_comes_first_whatever_the_order_and_format(tmp_path):
    train, test = write(tmp_path / "train.jsonl", ["add"] * 2), write(tmp_path / "gsm8k_test.jsonl", ["mul"])
    table = gsm8k.table([train, test])
    assert table["problem_id"].to_pylist() == ["test_0", "train_0", "train_1"]
    assert table["split"].to_pylist() == ["test", "train", "train"]
    pq.write_table(pa.Table.from_pylist([json.loads(test.read_text())]), tmp_path / "test.parquet")
    assert gsm8k.table([tmp_path / "test.parquet", train]).equals(table)


def test_seed_protocol_on_made_up_files(tmp_path):
    """The rule of the first study, written down plainly: pools, one seed, three samples."""
    kinds = ["add", "mul", "mix", "none"]
    test = [kinds[i % 4] for i in range(300)]
    train = [kinds[i * i % 3] for i in range(900)] + ["mul"] * 200 + ["mix"] * 200
    files = [write(tmp_path / "train.jsonl", train), write(tmp_path / "test.jsonl", test)]
    pools = {"add": [], "mul": [], "mixed": []}
    for split, listed in (("test", test), ("train", train)):
        for i, kind in enumerate(listed):
            pools["mixed" if kind in ("mix", "none") else kind].append(f"{split}_{i}")
    random.seed(42)
    want = [name for pool in pools.values() for name in random.sample(pool, 200)]
    table = gsm8k.table(files, seed_protocol=True)
    assert table["problem_id"].to_pylist() == want
    assert table["operation"].to_pylist() == [name for name in gsm8k.CLASSES for _ in range(200)]
    again = gsm8k.table(files, labels="annotations", seed_protocol=True)
    assert again["operation"].to_pylist() == table["label_annotation"].to_pylist()
    assert again["operation"].null_count > 0


def test_seed_protocol_needs_both_files_and_enough_problems(tmp_path):
    train = write(tmp_path / "train.jsonl", ["add"] * 250 + ["mix"] * 250)
    with pytest.raises(ConfigError, match="give both"):
        gsm8k.table([train], seed_protocol=True)
    with pytest.raises(DataError, match="200 problems of multiplication, there are 1"):
        gsm8k.table([train, write(tmp_path / "test.jsonl", ["mul"])], seed_protocol=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("not json", "line 1 is not JSON"),
        ('{"question": "q", "answer": "1 #### 1"}\n{"q": 1}', "line 2: expected an object with question"),
        ('["q", "a"]', "expected a JSON object"),
        ('{"question": "", "answer": "#### 1"}', "question and answer"),
        ('{"question": "q", "answer": 5}', "question and answer"),
        ('{"question": "q", "answer": "42"}', "####"),
        ('{"question": "q", "answer": "a ####  "}', "####"),
    ],
)
def test_files_of_another_format(tmp_path, text, says):
    file = tmp_path / "test.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        gsm8k.table([file])
    assert "test.jsonl" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(NotThereError, match=r"test\.jsonl"):
        gsm8k.table([tmp_path / "test.jsonl"])
    with pytest.raises(ConfigError, match="test or train"):
        gsm8k.table([write(tmp_path / "problems.jsonl", ["add"])])
    twice = [write(tmp_path / name, ["add"]) for name in ("test.jsonl", "test2.jsonl")]
    with pytest.raises(ConfigError, match="Two files"):
        gsm8k.table(twice)
    for name in ("test.jsonl", "test.parquet"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match="test"):
            gsm8k.table([tmp_path / name])


@pytest.mark.skipif(
    "GSM8K_DIR" not in os.environ, reason="set GSM8K_DIR to a folder with test.jsonl, train.jsonl"
)
def test_the_published_files():
    files = [Path(os.environ["GSM8K_DIR"]) / name for name in ("train.jsonl", "test.jsonl")]
    whole = gsm8k.table(files)
    pools = Counter(whole["label_regex"].to_pylist())
    assert pools == {"addition": 963, "multiplication": 1480, "mixed": 6349}
    sample = gsm8k.table(files, seed_protocol=True)
    assert Counter(sample["split"].to_pylist()) == {"train": 503, "test": 97}
    ids = sample["problem_id"].to_pylist()
    assert hashlib.sha256(" ".join(ids).encode()).hexdigest() == IDS_DIGEST


IDS_DIGEST = "fb7782306de013b9f7adec350329e28d452931e6023b82faa2b9fb736deb5326"
