"""Everything that waits for a GPU, in one visit of about ten minutes: `python bench/gpu.py`.

Runs `tests/gpu`; times whole training steps beside the encoder's bfloat16 product alone, and says what the
GPU did in one of them; a stack of 96 SAEs beside the same one after another; and, where `make peers` has been
run, SAELens and sparsify in turn with ours on the same rows. Prints what was reached beside what was to be
reached. `results/DATE-gpu.json` is written after every part: what was measured stays if the visit ends.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from run import RESULTS

from peers import ON_GPU, compare, environment, versions
from thoughtlens.ops.bench.clock import timed
from thoughtlens.ops.bench.decode import bench_decode
from thoughtlens.ops.bench.stack import bench_stack
from thoughtlens.ops.bench.train_step import bench_train_step, new_trainer

LARGE = {"d_in": 2048, "d_sae": 65_536, "batch": 8192, "k": 64}
SETTINGS = [
    {"kind": "topk", **LARGE},
    {"kind": "topk", **LARGE, "dtype": "float32"},
    {"kind": "relu", "d_in": 2048, "d_sae": 8192, "batch": 8192},
    {"kind": "topk", "d_in": 2048, "d_sae": 8192, "batch": 256},
]
STACK = {"members": 96, "d_in": 2048, "d_sae": 2048, "batch": 1024, "k": 20, "dtype": "bfloat16"}
TARGETS = {"step / product": 3.0, "sae_lens / ours": 5.0, "sparsify / ours": 2.0, "loop / stack": 10.0}
"""At most the first, at least the others."""


def product_ms(d_in: int, d_sae: int, batch: int, repeats: int = 20) -> float:
    """Median milliseconds of `[batch, d_in] @ [d_in, d_sae]` in bfloat16."""
    x = torch.randn(batch, d_in, device="cuda", dtype=torch.bfloat16)
    W = torch.randn(d_sae, d_in, device="cuda", dtype=torch.bfloat16)
    return statistics.median([timed(lambda: x @ W.T, x) for _ in range(repeats + 3)][3:])


def steps() -> dict[str, Any]:
    """Whole steps beside the product alone."""
    found = []
    for setting in SETTINGS:
        step = bench_train_step(**setting, device="cuda", steps=20)
        product = product_ms(*(setting[name] for name in ("d_in", "d_sae", "batch")))
        found.append(step | {"product_ms": product, "ratio": step["median_ms"] / product})
        print(json.dumps(found[-1]), flush=True)
        torch.cuda.empty_cache()
    return {"steps": found, "reached": {"step / product": found[0]["ratio"]}}


def inside_a_step(n: int = 3) -> dict[str, Any]:
    """Milliseconds a step of the large SAE spends in each of the GPU's kernels, longest first."""
    x = torch.randn(LARGE["batch"], LARGE["d_in"], device="cuda")
    trainer = new_trainer(x, "topk", LARGE["d_sae"], LARGE["k"], dtype="bfloat16", steps=100)
    for _ in range(3):
        trainer.step(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(n):
            trainer.step(x)
        torch.cuda.synchronize()
    events = profile.key_averages()
    ms = {e.key[:90]: e.self_device_time_total / 1e3 / n for e in events if e.self_device_time_total > 0}
    longest = dict(sorted(ms.items(), key=lambda item: -item[1])[:25])
    for name, one in longest.items():
        print(f"{one:8.3f} ms  {name}", flush=True)
    return {"inside_a_step_ms": longest, "peak_memory_bytes": torch.cuda.max_memory_allocated()}


def stack() -> dict[str, Any]:
    """The stack beside our own loop."""
    found = bench_stack(**STACK, device="cuda")
    print(json.dumps(found), flush=True)
    return {"stack": found, "reached": {"loop / stack": found["speedup"]}}


def decode() -> dict[str, Any]:
    """Sparse decoding beside the dense product."""
    return {"decode": bench_decode(d_out=2048, d_sae=65_536, batch=8192, k=64, device="cuda")}


def peers(env: Path) -> dict[str, Any]:
    """SAELens and sparsify in turn with ours; the faster dtype of each counts."""
    if not (env / ".ready").is_file():
        print(f"no {env}: make peers, for SAELens and sparsify", flush=True)
        return {"peers": None}
    python, found, reached = environment(env), {}, {}
    for name, setting in ON_GPU.items():
        found[name] = compare(setting, python, None, steps=10)
        for peer in ("sae_lens", "sparsify"):
            ratios = [r for other, r in found[name]["ratios"].items() if other.partition(":")[0] == peer]
            reached[f"{peer} / ours"] = min(ratios)
    return {"peers": found, "peer_versions": versions(python), "reached": reached}


def tests() -> dict[str, Any]:
    """`tests/gpu`."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/gpu"], check=False)
    return {"tests_exit_code": done.returncode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--env", type=Path, default=Path(".venv-peers"), help="made by `make peers`")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU here")
    header = {"date": date.today().isoformat(), "device": torch.cuda.get_device_name()}
    found: dict[str, Any] = {**header, "torch": torch.__version__, "seconds": {}, "reached": {}}
    file = RESULTS / f"{found['date']}-gpu.json"
    parts: list[Callable[[], dict[str, Any]]] = [
        tests,
        steps,
        inside_a_step,
        stack,
        lambda: peers(options.env),
        decode,
    ]
    for part in parts:
        start = time.monotonic()
        result = part()
        found["reached"] |= result.pop("reached", {})
        found |= result
        found["seconds"]["+".join(result)] = time.monotonic() - start
        file.write_text(json.dumps(found, indent=2) + "\n")
        torch.cuda.empty_cache()
    for name, target in TARGETS.items():
        bound = "at most" if name == "step / product" else "at least"
        print(f"{name}: {found['reached'].get(name, float('nan')):.2f}, to be {bound} {target:g}")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
