"""How the cost of each stage grows: processor seconds against problems, latents, SAEs, thoughts and layers.

    OMP_NUM_THREADS=1 python bench/growth.py [--axes problems latents saes thoughts layers] [--times 2]

Each axis is varied over a factor of 16 (SAEs: 14), everything else kept small; stages are done in one
process, one after the other, and measured as `--profile` measures them. An exponent is the slope of the
logarithm of processor seconds, over the whole range and over its last step, where what a stage costs at any
size weighs less. A run of `codi-tiny` gives problems, latents and SAEs; sparse rows of no model, which
`import` takes in, thoughts and layers. The least of `--times` runs counts. JSON goes to `results/`, into the
day's file if there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from run import of_today, processor

from thoughtlens.core import ASKED, BY_NAME, load_config
from thoughtlens.studies import pipeline

STEPS = (1, 4, 16)
MEMBERS = {1: ["pooled"], 2: ["per_layer"], 14: ["per_cell"]}
"""Partitions of the model's two layers and seven thoughts, by how many SAEs they are."""
SMALL = [
    "sae.k=2", "train.epochs=1", "train.batch_size=256", "classify.max_units=200", "effects.n=20",
    "trace.n=20", "trace.n_control=10", "lens.n_problems=200", "lens.fit_steps=50",
]  # fmt: skip
OF_ROWS = ["extract", "train", "validate", "interpret", "recovery", "explain", "explorer", "report"]
"""Stages whose work the number of problems is not bounded for by a setting."""
D = 32
"""Width of rows of no model."""


def of_model(problems: int, latents: int, saes: int, root: Path) -> None:
    """A run of the recipe for thoughts."""
    words = [f"problems.n={problems}", f"sae.d_sae={latents}", f"train.members={json.dumps(MEMBERS[saes])}"]
    stages = f"stages={json.dumps(OF_ROWS)}"
    pipeline.run(pipeline.load("pilot", [*SMALL, *words, stages]), root)


def of_rows(thoughts: int, layers: int, root: Path) -> None:
    """Training, validation and interpretation of sparse rows of no model."""
    rng = np.random.default_rng(0)
    shape = (400, thoughts, layers, D)
    rows = rng.exponential(size=shape) * (rng.random(shape) < 2 / D)
    np.savez(root.parent / "rows.npz", x=rows.astype(np.float32), sign=np.array(["+", "-"] * 200))
    table = {
        "files": [str(root.parent / "rows.npz")],
        "axes": ["problem", "thought", "hook"],
        "first_thought": 1,
    }
    bring = BY_NAME["import"]
    bring.run(load_config(bring.config, table), root / "acts")
    stages = 'stages=["train", "validate", "interpret", "explorer", "report"]'
    words = [*SMALL, "sae.d_sae=64", 'train.members=["pooled"]', "validate.force=true", stages]
    pipeline.run(pipeline.load("pilot", words), root)


def points(axis: str) -> Iterator[tuple[int, dict[str, int]]]:
    """Sizes along an axis, with the arguments of what is run there."""
    model = {"problems": 1000, "latents": 64, "saes": 1}
    rows = {"thoughts": 2, "layers": 2}
    if axis == "saes":
        yield from ((n, model | {"saes": n}) for n in MEMBERS)
    else:
        least = {"problems": 250, "latents": 32, "thoughts": 2, "layers": 2}[axis]
        base = model if axis in model else rows
        yield from ((least * step, base | {axis: least * step}) for step in STEPS)


def seconds(sizes: dict[str, int], times: int) -> dict[str, float]:
    """Processor seconds of each stage, the least of some runs."""
    best: dict[str, float] = {}
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            (of_model if "problems" in sizes else of_rows)(**sizes, root=Path(folder) / "run")
            costs = json.loads((Path(folder) / "run" / "profile.json").read_text())["costs"]
        for cost in costs:
            if not cost.get("part") and cost["stage"] in BY_NAME:
                best[cost["stage"]] = min(cost["processor_seconds"], best.get(cost["stage"], math.inf))
    return best


def slope(lo: tuple[int, float], hi: tuple[int, float]) -> float:
    """Of the logarithms."""
    return round(math.log(max(hi[1], 1e-3) / max(lo[1], 1e-3)) / math.log(hi[0] / lo[0]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axes", nargs="+", default=["problems", "latents", "saes", "thoughts", "layers"])
    parser.add_argument("--times", type=int, default=2)
    asked = parser.parse_args()
    os.environ[ASKED] = "1"
    file = of_today("growth")
    found = json.loads(file.read_text()) if file.is_file() else {"processor": processor(), "axes": {}}
    seconds({"problems": 250, "latents": 32, "saes": 1}, 1)  # compiles, and loads what is loaded once
    for axis in asked.axes:
        measured = {size: seconds(sizes, asked.times) for size, sizes in points(axis)}
        first, middle, last = measured
        exponents = {
            stage: {
                "whole": slope((first, measured[first][stage]), (last, measured[last][stage])),
                "last step": slope((middle, measured[middle][stage]), (last, measured[last][stage])),
            }
            for stage in measured[last]
        }
        found["axes"][axis] = {"processor_seconds": measured, "exponents": exponents}
        file.write_text(json.dumps(found, indent=1) + "\n")
        print(axis, json.dumps(found["axes"][axis]))


if __name__ == "__main__":
    main()
