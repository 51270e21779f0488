"""What kernels on a CPU share."""

import sys
from pathlib import Path

import numpy as np
import pytest

from thoughtlens.numerics import give_back_freed_memory, keep_freed_memory

BLOCKS, BYTES = 12, 16_000_000


def resident() -> int:
    """Bytes of the process that are not a file's."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_is_kept_until_it_is_given_back():
    give_back_freed_memory()
    before = resident()
    keep_freed_memory()
    blocks = [np.ones(BYTES // 8) for _ in range(BLOCKS)]
    del blocks
    kept = resident()
    give_back_freed_memory()
    assert kept - before > 0.8 * BLOCKS * BYTES
    assert resident() - before < 0.2 * BLOCKS * BYTES
