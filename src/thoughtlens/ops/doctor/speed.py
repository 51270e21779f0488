"""How fast this machine is, in a few seconds, beside one whose speed is on record."""

from __future__ import annotations

import statistics

import torch

from thoughtlens.ops.bench.clock import timed
from thoughtlens.ops.bench.train_step import bench_train_step
from thoughtlens.ops.doctor.records import Reference, Speed

SIDE = 1024
REPEATS = 5
REFERENCE = Reference(train_step_ms=128.0, machine="two otherwise quiet cores, docs/speed.md")
"""A TopK step 576 -> 4,608 (k 32) on 2,048 vectors in float32."""


def speed(device: str) -> Speed:
    """Matrix products and a whole training step: medians after a warm-up."""
    products = {name: _gflops(getattr(torch, name), device) for name in ("float32", "bfloat16")}
    step = bench_train_step(dtype="float32", steps=REPEATS, warmup=2, device=device)
    return Speed(
        device=device,
        gflops=products,
        train_step_ms=step["median_ms"],
        kernels=step["kernels"],
        threads=step["threads"],
        reference=REFERENCE,
    )


def _gflops(dtype: torch.dtype, device: str) -> float:
    a = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    times = [timed(lambda: a @ a, a) for _ in range(REPEATS + 1)][1:]
    return 2.0 * SIDE**3 / (1e6 * statistics.median(times))
