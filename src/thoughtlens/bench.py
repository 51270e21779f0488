"""What `thoughtlens bench` measures: medians of repeated runs, as one JSON-able dict each."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thoughtlens import sae as saes
from thoughtlens.config import validate
from thoughtlens.errors import ConfigError
from thoughtlens.extract import ExtractConfig, write
from thoughtlens.extract.text import text_source
from thoughtlens.models.capture import blocks_path
from thoughtlens.models.load import LanguageModel, load
from thoughtlens.sae.registry import CONFIGS
from thoughtlens.store.writer import StoreWriter
from thoughtlens.training.loop import Settings, Trainer

POOL = 4
"""Batches of random rows that a benchmark cycles through."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
    pairs = [(_bare_speed(cfg, lm, layer, tokens), _extract_speed(cfg)) for _ in range(repeats)]
    return {
        "benchmark": "extract",
        **table,
        "threads": torch.get_num_threads(),
        "bare_tokens_per_s": statistics.median(bare for bare, _ in pairs),
        "extract_tokens_per_s": statistics.median(ours for _, ours in pairs),
        "ratio": statistics.median(ours / bare for bare, ours in pairs),
        "pairs": pairs,
    }


def _extract_speed(cfg: ExtractConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        source = text_source(cfg, tmp)
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
    setattr(owner, name, blocks[: layer + 1])
    try:
        yield
    finally:
        setattr(owner, name, blocks)


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
