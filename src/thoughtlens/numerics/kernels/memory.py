"""How this process treats memory that is freed."""

from __future__ import annotations

import ctypes
from functools import lru_cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST_INT = 2**31 - 1


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let the allocator keep large blocks for the next step instead of handing them back to the system.

    By default every block above 32 MB is mapped anew, and the system clears it page by page: a pass over a
    fresh 67 MB result takes about five times as long as one over memory that was used before. The process
    then holds on to the most it ever needed.

    Returns:
        Whether the allocator took the setting; False where it is not glibc's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return (
        mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST_INT))
    )
