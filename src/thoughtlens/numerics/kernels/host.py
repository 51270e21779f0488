"""What kernels on a CPU share: tensors as arrays, rows dealt out over threads, freed memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

SHARES_PER_THREAD = 4
"""Pieces that a thread gets on average: rows differ in work."""
ROWS_PER_SHARE = 16
"""Rows below which a piece is not worth handing over."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGEST_INT = 2**31 - 1
LARGE_BLOCK = 1 << 25
"""Bytes of a block that is mapped for itself, unless freed memory is kept."""


def array(t: Tensor) -> np.ndarray:
    """The same memory as a C-contiguous array; a copy where it is not contiguous. bfloat16 as its bits."""
    t = t.detach().contiguous()
    return t.view(torch.int16).numpy().view(np.uint16) if t.dtype == torch.bfloat16 else t.numpy()


class Piece(NamedTuple):
    """The rows `lo` to `hi` of a result that one call of a loop does."""

    lo: int
    hi: int


def share(loop: Callable[..., Any], n: int, *arguments: Any) -> list[Any]:
    """Run `loop(*arguments, piece)` over `range(n)` in pieces, and return what the pieces returned."""
    threads = torch.get_num_threads()
    pieces = max(1, min(SHARES_PER_THREAD * threads, n // ROWS_PER_SHARE))
    if threads == 1 or pieces == 1:
        return [loop(*arguments, Piece(0, n))]
    bounds = pairwise(n * i // pieces for i in range(pieces + 1))
    return list(_pool(os.getpid(), threads).map(lambda piece: loop(*arguments, Piece(*piece)), bounds))


@lru_cache(maxsize=1)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    """The threads of this process: a forked child does not inherit its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="thoughtlens-kernels")


def keep_freed_memory() -> None:
    """Let the allocator keep large blocks for the next step instead of handing them back to the system.

    By default every block above 32 MB is mapped anew, and the system clears it page by page: a pass over a
    fresh 67 MB result takes about five times as long as one over memory that was used before. The process
    then holds on to the most it ever needed, until `give_back_freed_memory`. Without glibc nothing happens.
    """
    _allocate(free=LARGEST_INT, mapped=0)


def give_back_freed_memory() -> None:
    """Hand back what was freed, and keep as little as an allocator that nobody has told otherwise."""
    _allocate(free=2 * LARGE_BLOCK, mapped=1 << 16)
    if (trim := getattr(ctypes.pythonapi, "malloc_trim", None)) is not None:
        trim(0)


def _allocate(*, free: int, mapped: int) -> None:
    """Unused bytes that the heap may end with, and how many large blocks may be mapped for themselves."""
    if (mallopt := getattr(ctypes.pythonapi, "mallopt", None)) is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_TRIM_THRESHOLD, free)
        mallopt(M_MMAP_MAX, mapped)
