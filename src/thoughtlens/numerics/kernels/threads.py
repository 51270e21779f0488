"""Rows dealt out over as many threads as torch uses, for loops that run without the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch

SHARES_PER_THREAD = 4
"""Pieces that a thread gets on average: rows differ in work."""
ROWS_PER_SHARE = 16
"""Rows below which a piece is not worth handing over."""


def share(loop: Callable[..., Any], n: int, *arguments: Any) -> list[Any]:
    """Run `loop(*arguments, lo, hi)` over `range(n)` in pieces, and return what the pieces returned."""
    threads = torch.get_num_threads()
    pieces = max(1, min(SHARES_PER_THREAD * threads, n // ROWS_PER_SHARE))
    if threads == 1 or pieces == 1:
        return [loop(*arguments, 0, n)]
    bounds = [n * i // pieces for i in range(pieces + 1)]
    return list(
        _pool(os.getpid(), threads).map(lambda i: loop(*arguments, bounds[i], bounds[i + 1]), range(pieces))
    )


@lru_cache(maxsize=1)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    """The threads of this process: a forked child does not inherit its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="thoughtlens-kernels")
