"""What the store's benchmark reports; how fast it is, is no test's business."""

from __future__ import annotations

import math

import pytest

from thoughtlens.core import ConfigError, ResourceError
from thoughtlens.ops.bench.store import bench_store


def test_what_it_measures():
    result = bench_store(
        d_in=8, n_hooks=2, dtype="float16", gigabytes=1e-4, batch=100, seconds=0.01, repeats=2
    )
    # 10^5 bytes of rows with 2 hooks * 8 numbers * 2 bytes
    assert (result["n_rows"], result["store_gb"], result["dtype"]) == (3125, 1e-4, "float16")
    assert min(result["write_gb_s"], result["read_gb_s"], result["read_float32_gb_s"]) > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("dtype", "int8"), ("d_in", 0), ("gigabytes", 0.0), ("gigabytes", math.inf), ("seconds", math.nan)],
)
def test_what_it_refuses(name, value):
    with pytest.raises(ConfigError, match=f"^{name}: expected"):
        bench_store(**{name: value})


def test_it_never_fills_the_disk():
    with pytest.raises(ResourceError, match="GB of disk"):
        bench_store(gigabytes=1e12)
