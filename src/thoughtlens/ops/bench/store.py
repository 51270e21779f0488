"""Writing and reading an activation store."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import torch

from thoughtlens.acts import ActivationStore, StoreMeta, StoreWriter, View
from thoughtlens.core import DTYPES, Json, validate_config
from thoughtlens.ops.bench.limits import require_disk, require_one_of, require_positive, require_room


def bench_store(
    *,
    d_in: int = 576,
    n_hooks: int = 1,
    dtype: str = "bfloat16",
    gigabytes: float = 0.25,
    batch: int = 4096,
    seconds: float = 2.0,
    repeats: int = 5,
    seed: int = 0,
) -> Json:
    """Time writing a store of random activations, and shuffled reads of it from the page cache.

    Returns:
        `write_gb_s` (sync and digests included), `read_gb_s` (vectors as stored) and
        `read_float32_gb_s` (converted): medians over `repeats` runs of `seconds`, in 10^9 stored
        bytes a second; with settings and threads.

    Raises:
        ConfigError: a dtype that does not exist, or a number that is not above 0.
        ResourceError: too little memory or disk.
    """
    require_one_of("dtype", dtype, DTYPES)
    require_positive(
        d_in=d_in, n_hooks=n_hooks, gigabytes=gigabytes, batch=batch, seconds=seconds, repeats=repeats
    )
    width = {f"layers.{i}:out": d_in for i in range(n_hooks)}
    table = {"kind": "text", "model": "none", "hook_names": list(width), "d_in": width, "dtype": dtype}
    meta = validate_config(StoreMeta, table)
    row_bytes = n_hooks * d_in * DTYPES[dtype].itemsize
    n = max(batch, int(gigabytes * 1e9 / row_bytes))
    require_room(4.0 * batch * n_hooks * d_in, torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="thoughtlens-bench-") as folder:
        require_disk(n * row_bytes, Path(folder))
        root = Path(folder) / "acts"
        start = time.perf_counter()
        _write_random(root, meta, n, batch, seed)
        written_s = time.perf_counter() - start
        view = ActivationStore.open(root, verify=True).view()
        speeds = {
            form: [_read_speed(view, batch, form, seconds, seed + i) for i in range(repeats)]
            for form in (None, torch.float32)
        }
    return {
        "benchmark": "store",
        "d_in": d_in,
        "n_hooks": n_hooks,
        "dtype": dtype,
        "n_rows": n,
        "store_gb": n * row_bytes / 1e9,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "write_gb_s": n * row_bytes / 1e9 / written_s,
        "read_gb_s": statistics.median(speeds[None]),
        "read_float32_gb_s": statistics.median(speeds[torch.float32]),
    }


def _write_random(root: Path, meta: StoreMeta, n: int, chunk: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = {hook: torch.randn(chunk, d_in, generator=generator) for hook, d_in in meta.d_in.items()}
    writer = StoreWriter(root, meta)
    for first in range(0, n, chunk):
        size = min(chunk, n - first)
        rows = {"problem_id": ["0"] * size, "token_id": [0] * size, "position": range(size)}
        writer.append({hook: values[:size] for hook, values in x.items()}, rows)
    writer.finish(pa.table({"problem_id": ["0"], "group_id": ["0"], "split": ["train"]}))


def _read_speed(view: View, batch: int, dtype: torch.dtype | None, seconds: float, seed: int) -> float:
    """10^9 stored bytes per second."""
    n, start = 0, time.perf_counter()
    for part in view.batches(batch, seed=seed, epochs=None, dtype=dtype):
        n += len(part.idx)
        if (elapsed := time.perf_counter() - start) > seconds:
            return n * view.d_in * view.store.meta.torch_dtype.itemsize / 1e9 / elapsed
    raise AssertionError("an endless stream ended")
