"""Every stage at a small size: on planted vectors, on a run of the recipe `pilot`, and on a few texts.

`python -m tests.core.protocol.small ROOT STAGE` forks a child for each number that it reads. It runs the
stage in `ROOT/out` and ends by `os._exit` at its n-th file operation there, as a killed process does.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path

import numpy as np

from tests.conftest import save_tiny_lm
from tests.planted import D, planted_sae, thought_store
from thoughtlens import sae as saes
from thoughtlens.core import BY_NAME, Config, validate_config
from thoughtlens.studies import pipeline

WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate"}
PILOT = [
    "problems.n=80", "train.n_vectors=2000", "train.batch_size=64", "train.members=pooled", "sae.d_sae=32",
    "sae.k=4", "explain.n_latents=4", "explain.methods=['roles','token']", "explain.n_resamples=50",
    "validate.force=true", "lens.n_problems=16", "lens.fit_steps=2", "effects.n=4",
    "effects.edits=['swap v1', 'patch op1']", "recovery.n_resamples=100", "recovery.per_value=5",
    "recovery.min_count=2",
]  # fmt: skip
OF_PILOT = (
    "extract", "train", "validate", "interpret", "recovery", "lens", "explain", "effects", "explorer",
    "report",
)  # fmt: skip
"""Stages that run on what PILOT makes, each on what those before it left."""
BESIDE: dict[str, dict[str, object]] = {
    "classify": {"target": "n_steps", "task": "classification", "split": "all", "folds": 2,
                 "inner_folds": 2, "c_grid": [1.0], "n_permutations": 20, "ks": [1]},
    "finetune": {"steps": 2, "batch_problems": 4, "answer_problems": 6},
    "trace": {"n": 4, "n_control": 4},
    "influence": {"n": 6, "edits": ["patch start", "ablate mean"], "sites": ["kv"], "chains": ["thoughts"]},
    "attention": {"n": 4},
    "monitor": {"n": 6, "n_fit": 40, "n_resamples": 100},
    "circuit": {"n": 6, "split": "train"},
    "program": {"n": 4, "n_fit": 4, "n_twins": 4},
    "graph": {"problem": "any-0-000001", "budget": 20, "n_random": 2, "n_others": 4, "n_donors": 1},
    "directions": {"made": "pca", "k": 2, "hook": "layers.1:out"},
    "orbits": {"n": 6, "beyond": 1},
    "geometry": {"n_permutations": 20},
    "intervene": {"n": 4, "problems": {"source": "generated", "n": 40}},
    "gates": {"n": 8, "sae": None},
    "sweep": {"grid": ["sae.k=2,4"], "seeds": [0], "n_problems": 16, "recovery": False},
    "grid": {"grid": ["sae.k=2,4"]},
}  # fmt: skip
"""Further stages, and their settings on the same run."""
OF_TEXTS: dict[str, dict[str, object]] = {
    "textgraph": {"text": "The cat sat on a", "budget": 20, "n_targets": 4, "n_random": 2},
    "neuronpedia": {"member": "0", "per_batch": 16},
}
"""Stages that run on what `texts` makes."""


def planted(root: Path) -> Path:
    """A store and an SAE that are made in a moment."""
    rng = np.random.default_rng(0)
    strengths = rng.exponential(size=(40, 3, 2, D)) * (rng.random((40, 3, 2, D)) < 0.2)
    splits = ["train"] * 24 + ["validation"] * 8 + ["test"] * 8
    np.savez(root / "vectors.npz", x=strengths.astype(np.float32), operation=np.array(["+", "-"] * 20))
    thought_store(root / "acts", strengths, {"operation": ["+", "-"] * 20}, splits=splits)
    planted_sae(root / "sae")
    return root


def texts(root: Path) -> Path:
    """A store of texts that a tiny model read, and SAEs on two of its hooks."""
    hooks = ("layers.0:out", "layers.2:out")
    (root / "texts.txt").write_text(
        "\n\n".join(f"This is document {i} about a cat and a dog." for i in range(12))
    )
    extract = {
        "model": {"name": str(save_tiny_lm(root / "model")), "dtype": "float32"}, "hook_names": hooks,
        "problems": {"source": str(root / "texts.txt")}, "context_length": 32, "store_dtype": "float32",
    }  # fmt: skip
    BY_NAME["extract"].run(_config("extract", extract), root / "acts")
    for i, hook in enumerate(hooks):
        sae = saes.create(saes.TopKConfig(d_sae=48, k=4, normalization="none"), 32, seed=i)
        sae.hook_names = [hook]
        saes.save(sae, root / "sae" / str(i))
    interpret = {"acts": root / "acts", "sae": root / "sae", "n_permutations": 20}
    BY_NAME["interpret"].run(_config("interpret", interpret), root / "interpret")
    return root


def settings(root: Path, stage: str) -> Config:
    """Of a stage on what lies in `root`."""
    if stage in OF_TEXTS:
        return _config(stage, {"run": root, "acts": root / "acts", "sae": root / "sae"} | OF_TEXTS[stage])
    if not (root / "config.toml").is_file():
        table = {"acts": root / "acts", "sae": root / "sae", "source": root / "sae"}
        own = {
            "train": {"sae": {"kind": "topk", "d_sae": 8, "k": 2}, "batch_size": 16, "checkpoint_every_s": 0},
            "interpret": {"n_permutations": 20, "top_k": 2},
            "explain": {"methods": ["token"], "n_latents": 3, "batch_latents": 1, "n_resamples": 50},
            "recovery": {"min_count": 2, "n_resamples": 100},
            "convert": {"to": "sae_lens"},
            "import": {"files": [root / "vectors.npz"], "axes": ["problem", "thought", "hook"],
                       "first_thought": 1, "shard_rows": 32},
        }  # fmt: skip
        return _config(stage, (table if stage != "train" else {"acts": table["acts"]}) | own[stage])
    if stage not in BESIDE:
        return pipeline.stage_config(pipeline.load("pilot", PILOT), stage, root)
    trained = {"sae": {"kind": "topk", "d_sae": 8, "k": 2}, "train": {"batch_size": 64, "n_vectors": 2000}}
    return _config(stage, {"acts": root / "acts", "sae": root / "sae", "recipe": trained} | BESIDE[stage])


def _config(stage: str, table: dict[str, object]) -> Config:
    """Of what the stage knows of a table."""
    cls = BY_NAME[stage].config
    return validate_config(cls, {key: value for key, value in table.items() if key in cls.model_fields})


def pilot(root: Path) -> Path:
    """A whole run."""
    pipeline.run(pipeline.load("pilot", [*PILOT, f"stages={list(OF_PILOT)}"]), root)
    return root


def run(root: Path, stage: str, out: Path) -> None:
    """Do a stage."""
    BY_NAME[stage].run(settings(root, stage), out)


def _killed_at(n: int, root: Path, stage: str) -> None:
    """In a child: end at the n-th operation; else write all of them down, a line for each."""
    done = []

    def watch(event: str, arguments: tuple) -> None:
        if event in WATCHED and str(arguments[0]).startswith(str(root / "out")):
            done.append(f"{event} {arguments[0]}")
            if len(done) == n:
                os._exit(9)

    sys.addaudithook(watch)
    run(root, stage, root / "out")
    (root / "operations.txt").write_text("\n".join(done))
    (root / "modules.txt").write_text("\n".join(sys.modules))


def _import_all(names: list[str]) -> None:
    """What a child has imported, so that the next ones need not."""
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def main() -> None:
    """Serve kills until the input ends: one exit status per line."""
    root, stage = Path(sys.argv[1]), sys.argv[2]
    _import_all([f"thoughtlens.{BY_NAME[stage].room}.stage"])  # what a stage needs, once
    for line in sys.stdin:
        child = os.fork()
        if not child:
            status = 1
            try:
                _killed_at(int(line), root, stage)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not status:
            _import_all((root / "modules.txt").read_text().split())
        print(status, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
