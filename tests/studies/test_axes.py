from __future__ import annotations

import pytest

from thoughtlens.core import ConfigError
from thoughtlens.studies.sweep.axes import settings, split_overrides, split_values


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ("8", ["8"]),
        ("8, 16,32", ["8", "16", "32"]),
        ("topk,relu", ["topk", "relu"]),
        ('["pooled"]', ['["pooled"]']),
        ('["a", "b"],["c"]', ['["a", "b"]', '["c"]']),
        ("{a = 1, b = 2}", ["{a = 1, b = 2}"]),
        ('"x, y",z', ['"x, y"', "z"]),
        ("[[1, 2], [3]],[]", ["[[1, 2], [3]]", "[]"]),
    ],
)
def test_commas_count_outside_of_brackets_and_quotes(raw, parts):
    assert split_values(raw) == parts


def test_axes_fixed_values_and_seeds():
    fixed, axes, seeds = split_overrides(
        ["sae.k=8,16", "problems.n=4", "seeds=0,2", 'train.members=["pooled"],["per_layer"]', "sae=topk,relu"]
    )
    assert fixed == ["problems.n=4"]
    assert seeds == (0, 2)
    grid = settings(axes)
    assert len(grid) == 8
    assert grid[1].overrides == ["sae.k=8", 'train.members=["pooled"]', "sae=relu"]
    assert [s.name for s in grid] == [f"{i:03d}" for i in range(8)]


def test_no_axis_is_one_setting():
    (only,) = settings([])
    assert (only.overrides, only.label) == ([], "as the recipe")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=0,1", "say seeds="),
        ("problems.n=10,20", "shares one extraction"),
        ("extract.context_length=64,128", "shares one extraction"),
        ("train=1,2", "shares one extraction"),
        ("sae.k=8,8", "different values"),
        ("sae.k=8,", "different values"),
        ("seeds=0,0", "different whole numbers"),
        ("seeds=a", "different whole numbers"),
        ("seeds=", "different whole numbers"),
    ],
)
def test_what_cannot_be_an_axis_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        split_overrides([override])


def test_an_axis_twice_is_refused():
    with pytest.raises(ConfigError, match="each axis of the grid once"):
        split_overrides(["sae.k=1,2", "sae.k=3,4"])
