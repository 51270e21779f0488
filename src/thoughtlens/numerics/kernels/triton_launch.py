"""How Triton kernels are started."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton


def kernel(function: Callable[..., None] | None = None, **options: Any) -> Any:
    """Compile for the GPU at the first launch."""
    if function is None:
        return lambda function: kernel(function, **options)
    plain = inspect.unwrap(function)  # without the shape checks that tests wrap around every function
    return triton.jit(plain, **options)


def launch(compiled: Any, programs: int, *args: Any, **shape: Any) -> None:
    """Start that many programs on the device of the first argument, which need not be the current one.

    All grids have one dimension: the others hold 65,535 programs only.
    """
    if programs:
        with torch.cuda.device_of(args[0]):
            compiled[(programs,)](*args, **shape)
