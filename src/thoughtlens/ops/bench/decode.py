"""Sparse decoding beside the dense product that it stands for."""

from __future__ import annotations

import statistics

import torch

from thoughtlens.core import ConfigError, Json, choose_device
from thoughtlens.numerics import kernels
from thoughtlens.ops.bench.clock import timed
from thoughtlens.ops.bench.limits import require_positive, require_room


def bench_decode(
    *,
    d_out: int = 576,
    d_sae: int = 4608,
    batch: int = 2048,
    k: int = 32,
    steps: int = 20,
    device: str = "cpu",
    seed: int = 0,
) -> Json:
    """Time `kernels.decode` and `acts @ W_dec` in float32 on the same latents, in turn.

    Returns:
        `median_ms` and `dense_ms`, medians over `steps`, and `ratio`, the median of dense over sparse.
    """
    require_positive(d_out=d_out, d_sae=d_sae, batch=batch, steps=steps)
    if not 1 <= k <= d_sae:
        raise ConfigError(f"Expected 1 <= k <= d_sae, got k = {k}, d_sae = {d_sae}")
    where = choose_device(device)
    require_room(4.0 * d_sae * (d_out + 2 * batch), where)
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(d_sae, d_out, generator=generator).to(where)
    values, indices = torch.rand(batch, d_sae, generator=generator).to(where).topk(k)
    dense = torch.zeros(batch, d_sae, device=where).scatter(1, indices, values)
    runs = (lambda: kernels.decode(values, indices, W_dec), lambda: dense @ W_dec)
    pairs = [[timed(run, W_dec) for run in runs] for _ in range(steps + 1)][1:]
    return {
        "benchmark": "decode",
        "d_out": d_out,
        "d_sae": d_sae,
        "batch": batch,
        "k": k,
        "device": device,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "kernels": kernels.name(W_dec),
        "median_ms": statistics.median(sparse for sparse, _ in pairs),
        "dense_ms": statistics.median(whole for _, whole in pairs),
        "ratio": statistics.median(whole / sparse for sparse, whole in pairs),
    }
