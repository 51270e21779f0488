"""How benchmarks read the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def timed(run: Callable[[], Any], x: torch.Tensor) -> float:
    """Milliseconds of one call that works on the device of `x`."""
    wait(x)
    start = time.perf_counter()
    run()
    wait(x)
    return 1e3 * (time.perf_counter() - start)


def wait(x: torch.Tensor) -> None:
    """Let the device finish, so that a clock says what happened."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
