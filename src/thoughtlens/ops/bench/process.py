"""Whole processes: start-up and peak memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from thoughtlens.core import DataError, Json
from thoughtlens.ops.bench.limits import require_positive


def bench_startup(*, repeats: int = 7) -> Json:
    """Time new processes: `import thoughtlens` and `thoughtlens --help`, the interpreter's start included.

    Returns:
        `import_s`, `help_s`, and `python_s`, an empty program: medians over `repeats` runs.
    """
    require_positive(repeats=repeats)
    programs = {
        "python_s": ["-c", "pass"],
        "import_s": ["-c", "import thoughtlens"],
        "help_s": ["-m", "thoughtlens.cli", "--help"],
    }
    times = {
        name: statistics.median(_process(arguments)[0] for _ in range(repeats))
        for name, arguments in programs.items()
    }
    return {"benchmark": "startup", "repeats": repeats, **times}


def bench_memory(*, rows: int = 5_000, factor: int = 10) -> Json:
    """Peak memory of whole `extract` and `train` processes at `rows` rows, and at `factor` times as many.

    Returns:
        Per stage `small_mb`, `large_mb` (largest resident size, pages of mapped files included) and
        their ratio.
    """
    require_positive(rows=rows, factor=factor)
    peaks: dict[str, list[float]] = {"extract": [], "train": []}
    for n in (rows, factor * rows):
        with tempfile.TemporaryDirectory(prefix="thoughtlens-bench-") as folder:
            recipe = ["text-demo", f"extract.max_tokens={n}", "train.n_vectors=40960", "train.batch_size=512"]
            for stage in peaks:
                peaks[stage].append(_peak_mb([stage, *recipe, "--out", folder]))
    return {
        "benchmark": "memory",
        "rows": [rows, factor * rows],
        **{
            stage: {"small_mb": small, "large_mb": large, "ratio": large / small}
            for stage, (small, large) in peaks.items()
        },
    }


PEAK = """
import re, sys
from thoughtlens import cli
sys.argv = ["thoughtlens", *sys.argv[1:]]
try:
    cli.main()
finally:
    print("VmHWM", re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""
"""A program that ends by saying its own peak: what the system tells a parent also counts the parent's."""


def _peak_mb(arguments: list[str]) -> float:
    """Peak resident MB of one run of the command line in a new process (Linux)."""
    return float(_process(["-c", PEAK, *arguments])[1].split()[-1]) / 1024


def _process(arguments: list[str]) -> tuple[float, str]:
    """Seconds of one run of this Python, and what it said on stderr."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"{' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return time.perf_counter() - start, done.stderr
