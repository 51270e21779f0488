"""The benchmark of a training step runs the real trainer and says what it ran."""

from __future__ import annotations

import pytest
import torch

from thoughtlens.core import ConfigError, ResourceError
from thoughtlens.ops.bench.decode import bench_decode
from thoughtlens.ops.bench.train_step import KINDS, bench_train_step


@pytest.mark.parametrize(("kind", "dtype"), [("topk", "float32"), ("topk", "bfloat16"), ("relu", "float32")])
def test_train_step(kind, dtype):
    result = bench_train_step(d_in=16, d_sae=64, batch=32, k=4, kind=kind, dtype=dtype, steps=3, warmup=1)
    assert 0 < result["min_ms"] <= result["median_ms"] <= result["max_ms"]
    assert (result["kind"], result["k"]) == (kind, 4 if kind == "topk" else None)
    assert (result["steps"], result["dtype"], result["kernels"]) == (3, dtype, "cpu")
    assert result["threads"] >= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 5])
def test_every_kind_at_odd_sizes(kind, batch):
    result = bench_train_step(d_in=7, d_sae=13, batch=batch, k=13, kind=kind, dtype="float32", steps=1)
    assert (result["kind"], result["batch"], result["k"]) == (kind, batch, result["k"] and 13)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "mystery"}, "kind: expected one of topk"),
        ({"kind": "transcoder"}, "kind: expected one of topk"),
        ({"dtype": "int8"}, "dtype: expected one of float32, bfloat16, got 'int8'"),
        ({"steps": 0}, "steps: expected a number above 0, got 0"),
        ({"d_in": -3}, "d_in: expected a number above 0, got -3"),
        ({"k": 99}, "sae.k: expected 1 to d_sae = 16"),
    ],
)
def test_settings_that_cannot_be_timed(changes, message):
    with pytest.raises(ConfigError, match=message):
        bench_train_step(**{"d_in": 8, "d_sae": 16, "batch": 4, "k": 2, "steps": 1, **changes})


@pytest.mark.parametrize("size", ["d_in", "d_sae", "batch"])
def test_what_no_memory_can_hold(size):
    with pytest.raises(ResourceError, match=r"need at least [\d,.]+ GB of memory, and .+ are free on cpu"):
        bench_train_step(**{"d_in": 8, "d_sae": 16, "batch": 4, "k": 2, size: 10**14})
    with pytest.raises(ResourceError, match="GB of memory"):
        bench_decode(**{"d_out": 8, "d_sae": 16, "batch": 4, "k": 2, size.replace("in", "out"): 10**14})


def test_the_reference_can_be_forced(monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_KERNELS", "reference")
    assert bench_train_step(d_in=8, d_sae=16, batch=4, k=2, steps=1, warmup=0)["kernels"] == "reference"
    monkeypatch.setenv("THOUGHTLENS_KERNELS", "fast")
    with pytest.raises(ConfigError, match="THOUGHTLENS_KERNELS: expected auto or reference, got 'fast'"):
        bench_train_step(d_in=8, d_sae=16, batch=4, k=2, steps=1, warmup=0)


def test_decode():
    result = bench_decode(d_out=8, d_sae=32, batch=16, k=3, steps=2)
    assert result["median_ms"] > 0 and result["dense_ms"] > 0 and result["kernels"] == "cpu"
    with pytest.raises(ConfigError, match="k = 33"):
        bench_decode(d_out=8, d_sae=32, batch=16, k=33, steps=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("bench", [bench_train_step, bench_decode])
def test_a_gpu_that_is_not_there(bench):
    with pytest.raises(ResourceError, match="device 'cuda' is not available here"):
        bench(device="cuda")
    with pytest.raises(ConfigError, match="device: expected auto, cpu, cuda"):
        bench(device="gpu")
