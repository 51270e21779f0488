"""What `thoughtlens bench` measures: medians of repeated runs, as one JSON-able dict each."""

from __future__ import annotations

from thoughtlens.bench.decode import bench_decode
from thoughtlens.bench.extract import bench_extract
from thoughtlens.bench.interpret import bench_interpret
from thoughtlens.bench.process import bench_memory, bench_startup
from thoughtlens.bench.stack import bench_stack
from thoughtlens.bench.store import bench_store
from thoughtlens.bench.train_step import bench_train_step

__all__ = [
    "bench_decode",
    "bench_extract",
    "bench_interpret",
    "bench_memory",
    "bench_stack",
    "bench_startup",
    "bench_store",
    "bench_train_step",
]
