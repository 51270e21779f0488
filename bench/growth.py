"""How the cost of each stage grows: processor seconds and memory against five sizes.

    OMP_NUM_THREADS=1 python bench/growth.py [--axes problems latents ...] [--times 1]
    python bench/growth.py --large [--rows 1000000] [--latents 16384]

Each axis is varied over a factor of 16 (SAEs: 14), everything else kept small; stages are done in one
process, one after the other, and measured as `--profile` measures them. An exponent is the slope of the
logarithm of processor seconds, over the whole range and over its last step, where what a stage costs at any
size weighs less. The sizes are problems, latents, SAEs, thoughts and layers. A run of `codi-tiny` gives
problems, latents and SAEs; sparse rows of no model, which `import` takes in, thoughts and layers. The least
of `--times` runs counts. Memory is the most that the process held during the stage; what earlier ones left
is in it.

Rows and latents of a wide SAE (`wide`) are varied on text of no model, each size in a process of its own,
whose memory is then the two stages' alone: interpret, from rows to tables, and explorer, from tables to
pages. `--large` times one large SAE of that kind instead. JSON goes to `results/`, into the day's file if
there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from run import of_today, processor

from thoughtlens import sae as saes
from thoughtlens.acts import StoreMeta, StoreWriter
from thoughtlens.core import ASKED, BY_NAME, load_config, validate_config
from thoughtlens.studies import pipeline

STEPS = (1, 4, 16)
AXES = ("problems", "latents", "saes", "thoughts", "layers", "rows", "wide")
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
PROBLEMS = 2000
"""Of no model, where thoughts or layers vary."""
LEAST = {"problems": 1000, "latents": 128, "thoughts": 2, "layers": 2, "rows": 62_500}
DOCUMENT, VOCABULARY, WIDTH, L0, CHUNK = 256, 20_000, 64, 32, 8192
"""Of the text of no model: tokens of a document, width of rows, latents that fire, rows written at a time."""


def of_model(problems: int, latents: int, saes: int, root: Path) -> None:
    """A run of the recipe for thoughts."""
    words = [f"problems.n={problems}", f"sae.d_sae={latents}", f"train.members={json.dumps(MEMBERS[saes])}"]
    stages = f"stages={json.dumps(OF_ROWS)}"
    pipeline.run(pipeline.load("pilot", [*SMALL, *words, stages]), root)


def of_rows(thoughts: int, layers: int, root: Path) -> None:
    """Training, validation and interpretation of sparse rows of no model."""
    rng = np.random.default_rng(0)
    shape = (PROBLEMS, thoughts, layers, D)
    rows = rng.exponential(size=shape) * (rng.random(shape) < 2 / D)
    np.savez(root.parent / "rows.npz", x=rows.astype(np.float32), sign=np.array(["+", "-"] * (PROBLEMS // 2)))
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


def large(rows: int, latents: int, root: Path) -> None:
    """Interpret and explorer of text of no model, whose tokens are read by the bundled tokenizer."""
    hook = "layers.15:out"
    meta = {"kind": "text", "model": "smollm2-135m", "hook_names": [hook], "d_in": {hook: WIDTH}}
    writer, rng = StoreWriter(root / "acts", validate_config(StoreMeta, meta)), np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    sae = saes.create(saes.TopKConfig(d_sae=latents, k=L0, normalization="none"), WIDTH, seed=0)
    sae.hook_names, sae.provenance = [hook], {"split": "train", "thoughts": None}
    for low in range(0, rows, CHUNK):
        at = np.arange(low, min(low + CHUNK, rows))
        which = rng.integers(0, latents, (len(at), 8))  # decoder rows that a row is the sum of
        token = (which[:, 0] + rng.zipf(1.3, len(at))) % VOCABULARY
        noise = torch.randn(len(at), WIDTH, generator=generator)
        x = sae.W_dec.detach()[torch.from_numpy(which)].sum(1) + 0.1 * noise
        names = [f"d{i}" for i in (at // DOCUMENT).tolist()]
        columns = {"problem_id": names, "token_id": token.tolist(), "position": at % DOCUMENT}
        writer.append({hook: x}, columns)
    n = -(-rows // DOCUMENT)
    ids = [f"d{i}" for i in range(n)]
    source = rng.choice(["news", "code", "web"], n).tolist()
    writer.finish(pa.table({"problem_id": ids, "group_id": ids, "split": ["train"] * n, "source": source}))
    saes.save(sae, root / "sae")
    given = {"interpret": {"acts": root / "acts", "sae": root / "sae"}, "explorer": {"run": root}}
    for name, words in given.items():
        stage = BY_NAME[name]
        stage.run(validate_config(stage.config, words), root / stage.directory)


def costs_in(sizes: dict[str, int]) -> list[dict[str, Any]]:
    """What each stage and its parts cost at some sizes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "run"
        if "rows" in sizes:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                pool.submit(large, **sizes, root=root).result()
        else:
            (of_model if "problems" in sizes else of_rows)(**sizes, root=root)
        return json.loads((root / "profile.json").read_text())["costs"]


def points(axis: str) -> Iterator[tuple[int, dict[str, int]]]:
    """Sizes along an axis, with the arguments of what is run there."""
    model = {"problems": 2000, "latents": 128, "saes": 1}
    rows, text = {"thoughts": 2, "layers": 2}, {"rows": 62_500, "latents": 1024}
    if axis == "saes":
        yield from ((n, model | {"saes": n}) for n in MEMBERS)
    elif axis == "wide":
        yield from ((1024 * step, text | {"latents": 1024 * step}) for step in STEPS)
    else:
        base = next(base for base in (model, rows, text) if axis in base)
        yield from ((LEAST[axis] * step, base | {axis: LEAST[axis] * step}) for step in STEPS)


def costs_of(sizes: dict[str, int], times: int) -> dict[str, tuple[float, float]]:
    """Processor seconds and megabytes of each stage, the least of some runs."""
    best: dict[str, tuple[float, float]] = {}
    for _ in range(times):
        for cost in costs_in(sizes):
            if not cost.get("part") and cost["stage"] in BY_NAME:
                now = cost["processor_seconds"], round(cost["peak_bytes"] / 1e6)
                best[cost["stage"]] = min(now, best.get(cost["stage"], (math.inf, 0)))
    return best


def slope(lo: tuple[int, float], hi: tuple[int, float]) -> float:
    """Of the logarithms."""
    return round(math.log(max(hi[1], 1e-3) / max(lo[1], 1e-3)) / math.log(hi[0] / lo[0]), 2)


def along(axis: str, times: int) -> dict[str, Any]:
    """Costs of each stage at each size, and how they grow."""
    measured = {size: costs_of(sizes, times) for size, sizes in points(axis)}
    first, middle, last = measured
    seconds = {n: {stage: cost[0] for stage, cost in one.items()} for n, one in measured.items()}
    megabytes = {n: {stage: cost[1] for stage, cost in one.items()} for n, one in measured.items()}
    exponents = {
        stage: {
            "whole": slope((first, seconds[first][stage]), (last, seconds[last][stage])),
            "last step": slope((middle, seconds[middle][stage]), (last, seconds[last][stage])),
        }
        for stage in seconds[last]
    }
    return {"processor_seconds": seconds, "peak_megabytes": megabytes, "exponents": exponents}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axes", nargs="+", default=AXES)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--latents", type=int, default=16_384)
    asked = parser.parse_args()
    os.environ[ASKED] = "1"
    file = of_today("growth")
    found = json.loads(file.read_text()) if file.is_file() else {"processor": processor(), "axes": {}}
    if asked.large:
        sizes = {"rows": asked.rows, "latents": asked.latents}
        about = {"l0": L0, "threads": torch.get_num_threads(), "costs": costs_in(sizes)}
        found.setdefault("large", []).append(sizes | about)
        file.write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found["large"][-1], indent=1))
        return
    costs_in({"problems": 250, "latents": 32, "saes": 1})  # compiles, and loads what is loaded once
    for axis in asked.axes:
        found["axes"][axis] = along(axis, asked.times)
        file.write_text(json.dumps(found, indent=1) + "\n")
        print(axis, json.dumps(found["axes"][axis]), flush=True)


if __name__ == "__main__":
    main()
