"""Which variables are asked about, and which further problems that needs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from thoughtlens.core import ConfigError
from thoughtlens.evals.recovery.made import below, enough
from thoughtlens.evals.recovery.questions import Question, Wanted, kinds, questions

SPLIT = ["train"] * 8 + ["validation"] * 8 + ["test"] * 8


def asked(**columns):
    table = pa.table({"problem_id": [str(i) for i in range(24)], "group_id": [str(i) for i in range(24)],
                      "split": SPLIT, **columns})  # fmt: skip
    return questions(table, Wanted(min_count=2), where="here")


def test_a_variable_of_some_problems_is_asked_about_there_alone():
    found, _ = asked(op=np.resize(["+1", "*2"], 24), late=[None, "a", "b", None] * 6)
    late = next(one for one in found if one.variable == "late")
    assert late.codes.tolist() == [-2, 0, 1, -2] * 6 and late.values == ["a", "b"]


def test_a_value_that_a_split_lacks_is_another_value_and_is_not_looked_for():
    column = np.resize(["a", "b"], 24).tolist()
    column[:3] = ["rare"] * 3
    (found,), _ = asked(op=column)
    assert found.values == ["a", "b"] and found.codes[:3].tolist() == [-1] * 3


def test_columns_that_cannot_be_asked_about_are_named():
    found, left = asked(op=["x"] * 12 + ["y"] * 12, fine=np.resize(["a", "b"], 24))
    assert [one.variable for one in found] == ["fine"]
    assert "op: fewer than two values have 2 problems in each split" in left[0]
    table = pa.table({"split": SPLIT, "problem_id": SPLIT, "group_id": SPLIT, "op": ["x"] * 12 + ["y"] * 12})
    with pytest.raises(ConfigError, match="label op: fewer than two values"):
        questions(table, Wanted(("op",), min_count=2), where="here")


def test_kinds_are_signs_or_a_coarser_column():
    ops = Question("op", "", np.resize([0, 1, 2], 24), ["+1", "+2", "*3"])
    assert kinds([ops], ops).tolist() == [1, 1, 0]
    town = Question("town", "", np.resize([0, 1, 2, 3], 24), ["a", "b", "c", "d"])
    land = Question("land", "", np.resize([0, 1, 1, 0], 24), ["x", "y"])
    assert kinds([town, land], town).tolist() == [0, 1, 1, 0]
    assert kinds([town, land], land) is None
    mixed = Question("mixed", "", np.resize([0, 1, 0], 24), ["x", "y"])
    assert kinds([town, mixed], town) is None


def test_problems_are_made_until_every_value_has_enough():
    # two of the store are test problems, both of value 0; the others are candidates
    codes = np.array([0, 1, 0, 0, 1, 0, 1, 1, -2, 0])
    split = np.array(["train", "train", "test", "test"] + ["test"] * 6)
    one = Question("op", "", codes, ["a", "b"])
    assert enough([one], split, 4, 2) == 3  # value 1 needs two: the third candidate is the second
    assert enough([one], split, 4, 3) == 4
    assert enough([one], split, 4, 99) == 6  # never enough: all
    absent = Question("answer", "", np.r_[codes[:4], [-2] * 6], ["a", "b"])
    assert enough([absent], split, 4, 99) == 0


def test_tables_are_joined_by_the_columns_of_the_first():
    first = pa.table({"id": ["a"], "n": pa.array([1], pa.int32()), "answer": ["x"]})
    second = pa.table({"n": pa.array([2], pa.int64()), "id": ["b"], "new": [0]})
    assert below(first, second).to_pylist() == [
        {"id": "a", "n": 1, "answer": "x"},
        {"id": "b", "n": 2, "answer": None},
    ]
