"""A whole training step: forward, backward, optimizer and all bookkeeping of the real trainer."""

from __future__ import annotations

import statistics
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import DTYPES, Json, choose_device, validate_config
from thoughtlens.numerics import kernels
from thoughtlens.ops.bench.clock import timed
from thoughtlens.ops.bench.limits import require_one_of, require_positive, require_room
from thoughtlens.sae import CONFIGS, Dtype, Settings, Trainer, create

POOL = 4
"""Batches of random rows that a benchmark cycles through."""
KINDS = tuple(kind for kind in CONFIGS if kind not in ("supervised", "transcoder", "crosscoder", "imported"))
"""Architectures that train on rows of one hook, without labels or a second hook."""


def bench_train_step(
    *,
    d_in: int = 576,
    d_sae: int = 4608,
    batch: int = 2048,
    kind: str = "topk",
    k: int = 32,
    dtype: str = "bfloat16",
    steps: int = 20,
    warmup: int = 3,
    device: str = "cpu",
    seed: int = 0,
) -> Json:
    """Time whole training steps: forward, backward, optimizer, decoder norms and all bookkeeping.

    Rows are Gaussian and in memory, so reading a store is not part of it. `k` counts for
    architectures that have one, and is jumprelu's `target_l0`; `dtype` is that of the dense products.

    Returns:
        `median_ms`, `min_ms`, `max_ms` over `steps` steps after `warmup`, with settings, threads and
        kernels.

    Raises:
        ConfigError: a kind, dtype or size that does not exist.
        ResourceError: a GPU was asked for, and there is none; or too little memory.
    """
    require_one_of("kind", kind, KINDS)
    require_one_of("dtype", dtype, get_args(Dtype))
    require_positive(d_in=d_in, d_sae=d_sae, batch=batch, steps=steps)
    where = choose_device(device)
    require_room(training_bytes(d_in, d_sae) + 4.0 * batch * (POOL * d_in + d_sae), where)
    generator = torch.Generator().manual_seed(seed)
    pool = [torch.randn(batch, d_in, generator=generator).to(where) for _ in range(POOL)]
    first = pool[0] if batch > 1 else torch.cat(pool)  # a single row has no variance to normalise by
    trainer = new_trainer(first, kind, d_sae, k, dtype=dtype, steps=warmup + steps, seed=seed)
    steps_of = [lambda x=x: trainer.step(x) for x in pool]
    times = [timed(steps_of[i % POOL], pool[0]) for i in range(warmup + steps)][warmup:]
    return {
        "benchmark": "train-step",
        "kind": kind,
        "d_in": d_in,
        "d_sae": d_sae,
        "batch": batch,
        "k": getattr(trainer.sae.cfg, "k", getattr(trainer.sae.cfg, "target_l0", None)),
        "dtype": dtype,
        "device": device,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "kernels": kernels.name(trainer.sae.W_enc),
        "median_ms": statistics.median(times),
        "min_ms": min(times),
        "max_ms": max(times),
    }


def training_bytes(d_in: int, d_sae: int) -> float:
    """Weights, gradient and moments of an SAE in float32."""
    return 4.0 * 4 * 2 * d_in * d_sae


def new_trainer(
    x: Float[Tensor, "batch d_in"],
    kind: str,
    d_sae: int,
    k: int,
    *,
    dtype: str,
    steps: int,
    seed: int = 0,
    **settings_of_kind: Any,
) -> Trainer:
    """A trainer of a new SAE fitted to a batch, with a training's usual settings."""
    fires = {name: k for name in ("k", "target_l0") if name in CONFIGS[kind].model_fields}
    table = {"kind": kind, "d_sae": d_sae, **fires, **settings_of_kind}
    cfg = validate_config(CONFIGS[kind], table)
    sae = create(cfg, x.shape[1], seed=seed).to(x.device)
    sae.compute_dtype = DTYPES[dtype]
    sae.initialize(x)
    settings = Settings(
        n_steps=steps,
        batch_size=len(x),
        lr=cfg.default_lr(d_sae, steps),
        warmup=0.05,
        decay=0.2,
        grad_clip=1.0,
        dead_after_rows=1_000_000,
        eval_every=steps,
        checkpoint_every_s=float("inf"),
        seed=seed,
    )
    return Trainer(sae, settings)
