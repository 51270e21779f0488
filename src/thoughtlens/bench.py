"""What `thoughtlens bench` measures: medians of repeated runs, as one JSON-able dict each."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from thoughtlens import sae as saes
from thoughtlens.config import validate
from thoughtlens.errors import ConfigError
from thoughtlens.sae.registry import CONFIGS
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
