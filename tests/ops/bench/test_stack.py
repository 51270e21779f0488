"""The benchmark of a stack runs the real trainers and says what it ran."""

from __future__ import annotations

import os

import pytest

from thoughtlens.core import ConfigError, ResourceError
from thoughtlens.ops.bench.stack import bench_stack


@pytest.mark.parametrize(("kind", "group_size"), [("topk", 0), ("topk", 2), ("relu", 1)])
def test_stack(kind, group_size):
    result = bench_stack(
        members=3, d_in=8, d_sae=32, batch=16, k=2, kind=kind, steps=2, group_size=group_size
    )
    assert (result["members"], result["kind"], result["k"]) == (3, kind, 2 if kind == "topk" else None)
    assert result["group_size"] == (group_size or result["group_size"]) <= 3
    assert min(result[f"{name}_ms"] for name in ("stack", "loop", "reference", "encoder")) > 0
    assert result["speedup"] > 0 and result["speedup_reference"] > 0
    assert os.environ.get("THOUGHTLENS_KERNELS", "auto") == "auto"


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "gated"},
        {"dtype": "int8"},
        {"members": 0},
        {"group_size": -1},
        {"d_in": -7},
        {"batch": 1},
    ],
)
def test_settings_that_cannot_be_timed(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        bench_stack(**{"members": 2, "d_in": 8, "d_sae": 16, "batch": 4, "k": 2, "steps": 1, **changes})


def test_a_stack_that_no_memory_can_hold():
    with pytest.raises(ResourceError, match="GB of memory"):
        bench_stack(members=10**9, d_in=512, d_sae=4096, batch=4)
