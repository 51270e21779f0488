"""The first study's whole training: 10,800 rows, d_in 2,048, d_sae 8,192, 25 passes in batches of 256.

    python bench/seed_training.py [--train sae.l1=0 ...] [--out DIR]

Settings are the recipe's, `seed-codi`; the rows are sparse sums of random directions, for the study's own
need its model. Prints one JSON object: wall seconds of the train stage, and the L0 it ended with, on which
the time depends.
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

from peers import rows as sparse_rows
from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.sae.train.stage import train
from thoughtlens.studies import pipeline

N_PROBLEMS, N_THOUGHTS, D_IN = 600, 6, 2048


def make_store(root: Path, hooks: list[str]) -> None:
    """The study's 600 problems, 3 layers and 6 thoughts, all of them for training."""
    n = N_PROBLEMS * N_THOUGHTS
    meta = StoreMeta(
        kind="thoughts", model="random", hook_names=hooks, d_in=dict.fromkeys(hooks, D_IN), dtype="float32",
        thought_convention="0 is the begin-of-thought position",
    )  # fmt: skip
    x = torch.from_numpy(sparse_rows(None, D_IN, n * len(hooks))).chunk(len(hooks))
    ids = [f"p{i}" for i in range(N_PROBLEMS)]
    writer = StoreWriter(root, meta)
    index = {
        "problem_id": np.repeat(ids, N_THOUGHTS),
        "thought_idx": np.tile(np.arange(N_THOUGHTS), N_PROBLEMS),
    }
    writer.append(dict(zip(hooks, x, strict=True)), index)
    writer.finish(pa.table({"problem_id": ids, "group_id": ids, "split": ["train"] * N_PROBLEMS}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs="*", default=[], help="other settings, as sae.l1=0")
    parser.add_argument("--out", type=Path, help="keep the store and the SAE here")
    args = parser.parse_args()
    recipe = pipeline.load("seed-codi", args.train)
    with tempfile.TemporaryDirectory(prefix="thoughtlens-seed-") as tmp:
        root = args.out or Path(tmp)
        make_store(root / "acts", recipe.extract.hook_names)
        cfg = pipeline.stage_config(recipe, "train", root)
        begun = time.perf_counter()
        result = train(cfg, root / "sae")
        seconds = time.perf_counter() - begun
    found = {"benchmark": "seed-training", "settings": args.train, "seconds": seconds}
    print(json.dumps(found | {"threads": torch.get_num_threads(), "member": result["members"][0]}))


if __name__ == "__main__":
    main()
