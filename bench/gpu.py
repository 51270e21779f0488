"""Everything that waits for a GPU, in one run of about ten minutes: `python bench/gpu.py`.

Runs `tests/gpu`, then times whole training steps beside the encoder's bfloat16 product alone. Raw output
goes to `results/`; `waiting-for-gpu.md` says what is expected of it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from datetime import date
from typing import Any

import torch
from run import RESULTS

from thoughtlens.bench import bench_decode, bench_stack, bench_train_step
from thoughtlens.bench.clock import timed

LARGE = {"d_in": 2048, "d_sae": 65_536, "batch": 8192, "k": 64}
SETTINGS = [
    {"kind": "topk", **LARGE},
    {"kind": "topk", **LARGE, "dtype": "float32"},
    {"kind": "relu", "d_in": 2048, "d_sae": 8192, "batch": 8192},
    {"kind": "topk", "d_in": 2048, "d_sae": 8192, "batch": 256},
]
STACK = {"members": 96, "d_in": 2048, "d_sae": 2048, "batch": 1024, "k": 20, "dtype": "bfloat16"}


def product_ms(d_in: int, d_sae: int, batch: int, repeats: int = 20) -> float:
    """Median milliseconds of `[batch, d_in] @ [d_in, d_sae]` in bfloat16."""
    x = torch.randn(batch, d_in, device="cuda", dtype=torch.bfloat16)
    W = torch.randn(d_sae, d_in, device="cuda", dtype=torch.bfloat16)
    return statistics.median([timed(lambda: x @ W.T, x) for _ in range(repeats + 3)][3:])


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU here")
    found: dict[str, Any] = {"date": date.today().isoformat(), "device": torch.cuda.get_device_name()}
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/gpu"], check=False)
    found["tests_exit_code"] = tests.returncode
    found["steps"] = []
    for setting in SETTINGS:
        step = bench_train_step(**setting, device="cuda", steps=20)
        sizes = {name: setting[name] for name in ("d_in", "d_sae", "batch")}
        product = product_ms(**sizes)
        found["steps"].append(step | {"product_ms": product, "ratio": step["median_ms"] / product})
        print(json.dumps(found["steps"][-1]), flush=True)
    found["stack"] = bench_stack(**STACK, device="cuda")
    found["decode"] = bench_decode(d_out=2048, d_sae=65_536, batch=8192, k=64, device="cuda")
    file = RESULTS / f"{found['date']}-gpu.json"
    file.write_text(json.dumps(found, indent=2) + "\n")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
