"""The Triton kernels become machine code for a Hopper GPU, without one, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

pytest.importorskip("triton")
sys.platform == "linux" or pytest.skip("Triton compiles on Linux only", allow_module_level=True)

KERNELS = {
    "_adam_row", "_grad_squares", "_largest", "_largest_groups", "_maxima", "_reconstruct", "_relu_backward",
    "_relu_bias", "_row_products", "_sums",
}  # fmt: skip


def run(*command: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own, where Triton compiles instead of interpreting."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        cwd=Path(__file__).parents[3],
        env=env | {"TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_kernel_compiles_and_keeps_to_its_registers(tmp_path):
    done = run("-m", "tests.numerics.kernels.hopper", cache=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {name.split()[0] for name in found} == KERNELS
    for name, takes in found.items():
        assert takes["stack"] == 0, f"{name} spills registers: {takes}"
        assert takes["shared"] <= 100_000


@pytest.mark.skipif(torch.cuda.is_available(), reason="here Triton finds a driver")
def test_without_a_driver_the_reason_is_one_line(tmp_path):
    code = (
        "import torch; from thoughtlens.numerics.kernels import triton_check as c; "
        "print(c.fault(torch.device('cpu')))"
    )
    done = run("-c", code, cache=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("RuntimeError: ") and done.stdout.count("\n") == 1
