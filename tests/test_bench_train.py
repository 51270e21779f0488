"""The benchmark of a training step runs the real trainer and says what it ran."""

from __future__ import annotations

import pytest

from thoughtlens.bench import bench_train_step
from thoughtlens.errors import ConfigError


@pytest.mark.parametrize(("kind", "dtype"), [("topk", "float32"), ("topk", "bfloat16"), ("relu", "float32")])
def test_train_step(kind, dtype):
    result = bench_train_step(d_in=16, d_sae=64, batch=32, k=4, kind=kind, dtype=dtype, steps=3, warmup=1)
    assert 0 < result["min_ms"] <= result["median_ms"] <= result["max_ms"]
    assert (result["kind"], result["k"]) == (kind, 4 if kind == "topk" else None)
    assert (result["steps"], result["dtype"], result["kernels"]) == (3, dtype, "reference")
    assert result["threads"] >= 1


@pytest.mark.parametrize("changes", [{"kind": "mystery"}, {"dtype": "int8"}, {"steps": 0}, {"k": 99}])
def test_settings_that_cannot_be_timed(changes):
    with pytest.raises(ConfigError):
        bench_train_step(**{"d_in": 8, "d_sae": 16, "batch": 4, "k": 2, "steps": 1, **changes})
