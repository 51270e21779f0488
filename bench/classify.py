"""The whole comparison at full size: 3,000 problems, 7 positions, 4 layers, 12 arms, 5 x 5 nested folds.

    python bench/classify.py [--problems 3000] [--layers 4] [--width 96] [--out DIR]

Thoughts are random with a label in a few cells; the SAE is a TopK trained briefly. Prints one JSON
object: wall and processor seconds of the classify stage alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.core import validate_config
from thoughtlens.evals.classify.config import ClassifyConfig
from thoughtlens.evals.classify.stage import classify
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train

ARMS = (
    "sae", "raw", "sae_reconstruction", "pca", "pca_live", "random_projection", "random_sae", "top_latents",
    "top_neurons", "text", "majority", "permuted",
)  # fmt: skip


def make_store(root: Path, n: int, n_layers: int, width: int) -> None:
    """n problems to classify (test) and as many to train the SAE on."""
    rng = np.random.default_rng(0)
    hooks = [f"layers.{i}:out" for i in range(n_layers)]
    meta = StoreMeta(
        kind="thoughts", model="random", hook_names=hooks, d_in=dict.fromkeys(hooks, width), dtype="float32",
        thought_convention="0 is the begin-of-thought position",
    )  # fmt: skip
    total = 2 * n + n // 4
    y = rng.integers(0, 3, total)
    directions = rng.normal(size=(4 * width, width))
    ids = [f"p{i}" for i in range(total)]
    writer = StoreWriter(root, meta)
    for low in range(0, total, 500):
        own = slice(low, min(low + 500, total))
        size = own.stop - own.start
        acts = {}
        for layer, hook in enumerate(hooks):
            codes = rng.random((size * 7, 4 * width)) * (rng.random((size * 7, 4 * width)) < 0.04)
            x = (codes @ directions).reshape(size, 7, width)
            x[:, 3] += 2.0 * np.eye(3, width)[y[own]] * (layer + 1)
            acts[hook] = torch.from_numpy(x.reshape(-1, width).astype(np.float32))
        rows = {"problem_id": np.repeat(ids[own], 7), "thought_idx": np.tile(np.arange(7), size)}
        writer.append(acts, rows)
    words = rng.choice(["some", "words", "that", "say", "nothing", "of", "it"], (total, 9))
    table = {
        "problem_id": ids, "group_id": ids,
        "split": ["train"] * n + ["validation"] * (n // 4) + ["test"] * n,
        "question": [" ".join(row) for row in words], "answer": ["0"] * total, "cot": [""] * total,
        "operation": [("addition", "multiplication", "mixed")[i] for i in y],
    }  # fmt: skip
    writer.finish(pa.table(table))


def main() -> None:
    """Build, train, classify, and say how long the last took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=3000)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.out or Path(folder)
        make_store(root / "acts", given.problems, given.layers, given.width)
        sae = {"kind": "topk", "expansion": 4, "k": 16}
        options = {"acts": root / "acts", "sae": sae, "epochs": 2, "evaluations": 2}
        train(validate_config(TrainConfig, options), root / "sae")
        cfg = ClassifyConfig(
            acts=root / "acts", sae=root / "sae", target="operation", split="test", arms=ARMS,
            inner_folds=5, max_units=0,
        )  # fmt: skip
        cpu, wall = time.process_time(), time.monotonic()
        result = classify(cfg, root / "classify")
        print(
            json.dumps(
                {
                    "n": result["n"],
                    "arms": len(ARMS),
                    "probes": len(result["table"]),
                    "wall_s": round(time.monotonic() - wall, 1),
                    "cpu_s": round(time.process_time() - cpu, 1),
                }
            )
        )


if __name__ == "__main__":
    main()
