"""Label columns as classes: all values, the frequent ones, or bins; and what is said of the rest."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from thoughtlens.core import ConfigError
from thoughtlens.latents.codes.labels import OTHERS, Label, not_told_apart, read_labels

N = 240


def read(most: int = 64, **columns) -> dict[str, Label]:
    ids = [f"p{i}" for i in range(N)]
    problems = pa.table({"problem_id": ids, "group_id": ids, "split": ["train"] * N, **columns})
    found = read_labels(problems, None, max_levels=12, min_count=10, most=most)
    return {label.name: label for label in found}


def test_every_value_of_a_small_column_is_a_level():
    found = read(operation=["add", "mul", None] * 80, right=[True, False] * 120)
    assert found["operation"].levels == ["add", "mul"]
    assert found["operation"].codes[:3].tolist() == [0, 1, -1]
    assert found["right"].levels == ["False", "True"]
    assert not_told_apart(list(found.values())) == []


def test_a_column_of_many_values_keeps_those_of_enough_problems():
    # 20 operations of 10 problems each, and 40 of one problem each
    names = [f"+{i:02d}" for i in range(20)]
    label = read(op=names * 10 + [f"rare{i}" for i in range(40)])["op"]
    assert label.levels == [*names, OTHERS]
    assert np.bincount(label.codes).tolist() == [10] * 20 + [40]
    assert not_told_apart([label]) == [
        "label op: 20 of its 60 values are told apart, those of too few problems share one level"
    ]
    assert read(most=5, op=names * 12)["op"].levels == [*names[:5], OTHERS]
    assert not not_told_apart([read(op=names * 12)["op"]])  # all are told apart: nothing to say


@pytest.mark.parametrize("kind", [int, float])
def test_numbers_are_levels_by_value_where_frequent_and_bins_else(kind):
    value = [kind(i % 20) for i in range(N)]
    assert read(v1=value)["v1"].levels == [str(kind(i)) for i in range(20)]
    label = read(v1=[kind(i) for i in range(N)])["v1"]
    # 240 values in 12 bins of 20
    assert label.n_bins == 12 and np.bincount(label.codes).tolist() == [20] * 12
    assert label.levels[0] == "up to 19" and label.levels[-1] == "above 219"
    assert label.levels[1] == "above 19, up to 39"
    assert not_told_apart([label]) == []


def test_missing_numbers_have_no_level():
    label = read(v=[float("nan") if i % 2 else float(i) for i in range(N)])["v"]
    assert (label.codes[1::2] == -1).all() and (label.codes[::2] >= 0).all()


def test_a_skewed_number_has_no_empty_bin():
    label = read(v=[0] * 200 + list(range(1, 41)))["v"]
    assert (np.bincount(label.codes, minlength=len(label.levels)) > 0).all()


def test_what_cannot_be_used_is_said():
    found = read(
        url=[f"http://{i}" for i in range(N)], tags=[["a"], ["b"]] * 120, same=["x"] * N,
        nothing=pa.nulls(N, pa.string()),
    )  # fmt: skip
    assert not any(label.levels for label in found.values())
    said = not_told_apart(list(found.values()))
    assert said[0] == "label url: 240 values, none of them frequent enough; it is not used"
    assert [line.split()[1] for line in said] == ["url:", "tags:", "nothing:"]


def test_a_column_that_is_not_there():
    ids = [f"p{i}" for i in range(3)]
    problems = pa.table({"problem_id": ids, "group_id": ids, "split": ids, "op": ids})
    with pytest.raises(ConfigError, match="expected some of op, got 'colour'"):
        read_labels(problems, ("colour",), max_levels=3, min_count=1)
