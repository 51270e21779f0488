"""The Triton kernels become machine code for a Hopper GPU, without one, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
sys.platform == "linux" or pytest.skip("Triton compiles on Linux only", allow_module_level=True)

KERNELS = {
    "_adam_row", "_grad_square", "_largest", "_largest_groups", "_maxima", "_reconstruct", "_relu_backward",
    "_relu_bias", "_row_products", "_sums",
}  # fmt: skip


def test_every_kernel_compiles_and_keeps_to_its_registers(tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kernels.hopper"],
        cwd=Path(__file__).parents[2],
        env=env | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert {name.split()[0] for name in found} == KERNELS
    for name, takes in found.items():
        assert takes["stack"] == 0, f"{name} spills registers: {takes}"
        assert takes["shared"] <= 100_000
