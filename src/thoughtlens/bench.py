"""What `thoughtlens bench` measures: medians of repeated runs, as one JSON-able dict each."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from thoughtlens import sae as saes
from thoughtlens.config import validate
from thoughtlens.errors import ConfigError, DataError
from thoughtlens.extract import ExtractConfig, write
from thoughtlens.extract.text import text_source
from thoughtlens.models.capture import blocks_path
from thoughtlens.models.load import LanguageModel, load
from thoughtlens.problems.text import TextConfig
from thoughtlens.sae.registry import CONFIGS
from thoughtlens.store import ActivationStore, StoreMeta, StoreWriter, View
from thoughtlens.store.meta import DTYPES as STORED
from thoughtlens.train import DTYPES
from thoughtlens.training.loop import Settings, Trainer

POOL = 4
"""Batches of random rows that a benchmark cycles through."""


def bench_train_step(
    *,
    d_in: int = 576,
    d_sae: int = 4608,
    batch: int = 2048,
    kind: str = "topk",
    k: int = 32,
    dtype: str = "float32",
    steps: int = 20,
    warmup: int = 3,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Time whole training steps: forward, backward, optimizer, decoder norms and all bookkeeping.

    Rows are Gaussian and in memory, so reading a store is not part of it. `k` counts for
    architectures that have one.

    Returns:
        `median_ms`, `min_ms`, `max_ms` over `steps` steps after `warmup`, with settings, threads and
        kernels.
    """
    if kind not in CONFIGS or dtype not in DTYPES or min(steps, batch) < 1:
        raise ConfigError(
            f"Expected kind in {list(CONFIGS)}, dtype in {list(DTYPES)}, steps and batch >= 1; "
            f"got {kind!r}, {dtype!r}, {steps}, {batch}"
        )
    table = {"kind": kind, "d_sae": d_sae} | ({"k": k} if "k" in CONFIGS[kind].model_fields else {})
    cfg = validate(CONFIGS[kind], table)
    generator = torch.Generator().manual_seed(seed)
    pool = [torch.randn(batch, d_in, generator=generator).to(device) for _ in range(POOL)]
    sae = saes.create(cfg, d_in, seed=seed).to(device)
    sae.compute_dtype = DTYPES[dtype]
    sae.initialize(pool[0])
    trainer = Trainer(sae, _settings(warmup + steps, batch, cfg.default_lr(d_sae)))
    times = [_timed(trainer, pool[i % POOL]) for i in range(warmup + steps)][warmup:]
    return {
        "benchmark": "train-step",
        "kind": kind,
        "d_in": d_in,
        "d_sae": d_sae,
        "batch": batch,
        "k": table.get("k"),
        "dtype": dtype,
        "device": device,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "kernels": "reference",
        "median_ms": statistics.median(times),
        "min_ms": min(times),
        "max_ms": max(times),
    }


def bench_extract(
    *,
    model: str = "smollm2-135m",
    layer: int = 15,
    tokens: int = 20_000,
    context_length: int = 256,
    batch_tokens: int = 2048,
    dtype: str = "bfloat16",
    device: str = "cpu",
    source: str = "bundled",
    repeats: int = 3,
) -> dict[str, Any]:
    """Rows a second of an extraction at `layers.{layer}:out`, beside the bare forward pass to that block.

    The two are timed in turn. The extraction is everything between tokens and a finished store: packing,
    forward pass, choice of rows, norms, writing, digests. The bare pass is the model cut off after the block,
    without hooks, on full windows of random tokens, so padding counts against the extraction alone. Loading
    the model and reading the text are in neither.

    Returns:
        Tokens a second of both, and `ratio`, the median over `repeats` of the paired ratios.
    """
    table = {
        "model": {"name": model, "dtype": dtype, "device": device},
        "problems": {"source": source},
        "hook_names": [f"layers.{layer}:out"],
        "max_tokens": tokens,
        "context_length": context_length,
        "batch_tokens": batch_tokens,
    }
    cfg = validate(ExtractConfig, table)
    lm = load(**cfg.model.model_dump())
    _bare_speed(cfg, lm, layer, 2 * batch_tokens)  # warm-up
    text = TextConfig(source=source)
    pairs = [(_bare_speed(cfg, lm, layer, tokens), _extract_speed(cfg, text)) for _ in range(repeats)]
    return {
        "benchmark": "extract",
        **table,
        "threads": torch.get_num_threads(),
        "bare_tokens_per_s": statistics.median(bare for bare, _ in pairs),
        "extract_tokens_per_s": statistics.median(ours for _, ours in pairs),
        "ratio": statistics.median(ours / bare for bare, ours in pairs),
        "pairs": pairs,
    }


def _extract_speed(cfg: ExtractConfig, text: TextConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        source = text_source(cfg, text, tmp)
        start = time.perf_counter()
        writer = StoreWriter.begin(tmp, source.meta, cfg.shard_rows)
        write(cfg, tmp, source, writer)
        writer.finish(source.problems())
        return source.n_rows / (time.perf_counter() - start)


@torch.no_grad()
def _bare_speed(cfg: ExtractConfig, lm: LanguageModel, layer: int, tokens: int) -> float:
    rows = max(cfg.batch_tokens // cfg.context_length, 1)
    ids = torch.randint(lm.model.config.vocab_size, (rows, cfg.context_length), device=lm.model.device)
    passes = max(tokens // ids.numel(), 1)
    with _cut_after(lm.model, layer):
        _wait(ids)
        start = time.perf_counter()
        for _ in range(passes):
            lm.model.base_model(ids, use_cache=False)
        _wait(ids)
    return passes * ids.numel() / (time.perf_counter() - start)


@contextmanager
def _cut_after(model: nn.Module, layer: int) -> Iterator[None]:
    """The model without the blocks after this one."""
    path = blocks_path(model)
    if path is None:
        raise ConfigError(f"{type(model).__name__} has no list of blocks to cut")
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList)
    setattr(owner, name, blocks[: layer + 1])
    try:
        yield
    finally:
        setattr(owner, name, blocks)


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
) -> dict[str, Any]:
    """Time writing a store of random activations, and shuffled reads of it from the page cache.

    Returns:
        `write_gb_s` (sync and digests included), `read_gb_s` (vectors as stored) and
        `read_float32_gb_s` (converted): medians over `repeats` runs of `seconds`, in 10^9 stored
        bytes a second; with settings and threads.
    """
    if dtype not in STORED or min(d_in, n_hooks, batch, repeats) < 1 or min(gigabytes, seconds) <= 0:
        raise ConfigError(f"Expected dtype in {list(STORED)} and positive numbers, got {dtype!r}")
    width = {f"layers.{i}:out": d_in for i in range(n_hooks)}
    table = {"kind": "text", "model": "none", "hook_names": list(width), "d_in": width, "dtype": dtype}
    meta = validate(StoreMeta, table)
    row_bytes = n_hooks * d_in * STORED[dtype].itemsize
    n = max(batch, int(gigabytes * 1e9 / row_bytes))
    with tempfile.TemporaryDirectory(prefix="thoughtlens-bench-") as folder:
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


def bench_startup(*, repeats: int = 7) -> dict[str, Any]:
    """Time new processes: `import thoughtlens` and `thoughtlens --help`, the interpreter's start included.

    Returns:
        `import_s`, `help_s`, and `python_s`, an empty program: medians over `repeats` runs.
    """
    programs = {
        "python_s": ["-c", "pass"],
        "import_s": ["-c", "import thoughtlens"],
        "help_s": ["-m", "thoughtlens.cli", "--help"],
    }
    times = {
        name: statistics.median(_process(arguments)[0] for _ in range(repeats))
        for name, arguments in programs.items()
    }
    return {"benchmark": "startup", "repeats": repeats, **times}


def bench_memory(*, rows: int = 5_000, factor: int = 10) -> dict[str, Any]:
    """Peak memory of whole `extract` and `train` processes at `rows` rows, and at `factor` times as many.

    Returns:
        Per stage `small_mb`, `large_mb` (largest resident size, pages of mapped files included) and
        their ratio.
    """
    peaks: dict[str, list[float]] = {"extract": [], "train": []}
    for n in (rows, factor * rows):
        with tempfile.TemporaryDirectory(prefix="thoughtlens-bench-") as folder:
            recipe = ["text-demo", f"extract.max_tokens={n}", "train.n_vectors=40960", "train.batch_size=512"]
            for stage in peaks:
                peaks[stage].append(_peak_mb([stage, *recipe, "--out", folder]))
    return {
        "benchmark": "memory",
        "rows": [rows, factor * rows],
        **{
            stage: {"small_mb": small, "large_mb": large, "ratio": large / small}
            for stage, (small, large) in peaks.items()
        },
    }


PEAK = """
import re, sys
from thoughtlens import cli
sys.argv = ["thoughtlens", *sys.argv[1:]]
try:
    cli.main()
finally:
    print("VmHWM", re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""
"""A program that ends by saying its own peak: what the system tells a parent also counts the parent's."""


def _peak_mb(arguments: list[str]) -> float:
    """Peak resident MB of one run of the command line in a new process (Linux)."""
    return float(_process(["-c", PEAK, *arguments])[1].split()[-1]) / 1024


def _process(arguments: list[str]) -> tuple[float, str]:
    """Seconds of one run of this Python, and what it said on stderr."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"{' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return time.perf_counter() - start, done.stderr


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
    """10^9 stored bytes a second."""
    n, start = 0, time.perf_counter()
    for part in view.batches(batch, seed=seed, epochs=None, dtype=dtype):
        n += len(part.idx)
        if (elapsed := time.perf_counter() - start) > seconds:
            return n * view.d_in * view.store.meta.torch_dtype.itemsize / 1e9 / elapsed
    raise AssertionError("an endless stream ended")


def _settings(n_steps: int, batch: int, lr: float) -> Settings:
    return Settings(
        n_steps=n_steps,
        batch_size=batch,
        lr=lr,
        warmup=0.05,
        decay=0.2,
        grad_clip=1.0,
        dead_after_rows=1_000_000,
        eval_every=n_steps,
        checkpoint_every_s=float("inf"),
        seed=0,
    )


def _timed(trainer: Trainer, x: torch.Tensor) -> float:
    """Milliseconds of one step."""
    _wait(x)
    start = time.perf_counter()
    trainer.step(x)
    _wait(x)
    return 1e3 * (time.perf_counter() - start)


def _wait(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
