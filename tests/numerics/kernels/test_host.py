"""What kernels on a CPU share."""

import subprocess
import sys

import pytest

BLOCKS, BYTES = 12, 16_000_000
CHILD = f"""
from pathlib import Path
import numpy as np
from thoughtlens.numerics import give_back_freed_memory, keep_freed_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

before = resident()
keep_freed_memory()
blocks = [np.ones({BYTES} // 8) for _ in range({BLOCKS})]
del blocks
kept = resident()
give_back_freed_memory()
print(kept - before, resident() - before)
"""
"""In a process of its own: what other tests have freed is not in the way."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_is_kept_until_it_is_given_back():
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 0.8 * BLOCKS * BYTES
    assert left < 0.2 * BLOCKS * BYTES
