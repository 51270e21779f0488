"""A run whose stages would find nothing in their split is refused before anything is trained."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thoughtlens.core import DataError
from thoughtlens.studies import pipeline

ROW = {"answer": "1", "cot": ""}


def table(path, split):
    rows = [
        ROW | {"problem_id": f"p{i}", "group_id": f"g{i}", "split": split(i), "question": f"{i} apples?"}
        for i in range(30)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return f"problems.source={path}"


def test_problems_that_are_all_for_training(tmp_path):
    recipe = pipeline.load("pilot", [table(tmp_path / "p.parquet", lambda i: "train")])
    with pytest.raises(
        DataError, match=r"validate reads split 'test', .*and nothing is in it, only in train\."
    ):
        pipeline.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "acts").exists()


def test_texts_of_which_none_are_held_out(tmp_path):
    recipe = pipeline.load("text-demo", ["problems.test=0"])
    with pytest.raises(DataError, match=r"raise problems\.test, .*validate\.split=.*stages='\["):
        pipeline.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "acts").exists()


@pytest.mark.parametrize(
    ("split", "overrides"),
    [
        (lambda i: "train" if i % 3 else "test", []),
        (lambda i: "train", ['stages=["extract", "train"]']),
        (
            lambda i: "train" if i % 3 else "validation",
            ["validate.split=validation", 'stages=["extract", "train", "validate"]'],
        ),
    ],
)
def test_what_finds_its_rows_is_not_refused(tmp_path, split, overrides):
    recipe = pipeline.load("pilot", [table(tmp_path / "p.parquet", split), *overrides])
    pipeline._require_splits(recipe, pipeline._splits_to_come(recipe, tmp_path / "run"))


def test_a_small_corpus_without_a_test_document_is_refused_after_extraction():
    recipe = pipeline.load("text-demo")
    with pytest.raises(DataError, match="nothing is in it"):
        pipeline._require_splits(recipe, {"train": 90, "validation": 10, "test": 0})
    pipeline._require_splits(recipe, {"train": 90, "validation": 0, "test": 10})
    pipeline._require_splits(recipe, None)
