"""How fast this machine computes."""

from __future__ import annotations

import time

import torch


def flops(device: str, dtype: torch.dtype, width: int) -> float:
    """Floating-point operations a second of a model this wide, from one small product timed here."""
    x = torch.ones(512, width, dtype=dtype, device=device)
    weight = torch.ones(width, 4 * width, dtype=dtype, device=device)
    (x @ weight).sum().item()  # warm-up
    start = time.perf_counter()
    torch.stack([x @ weight for _ in range(4)]).sum().item()
    return 0.5 * 4 * 2 * x.numel() * weight.shape[1] / (time.perf_counter() - start)
