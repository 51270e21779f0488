"""Runs for the explorer whose latents are known, and whose texts are as hostile as texts can be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.planted import HOOKS, D, planted_sae, thought_store
from tests.show.explorer.tables import (
    plant_attention,
    plant_edit,
    plant_explain,
    plant_geometry,
    plant_interpret,
    plant_lens,
    write,
)
from thoughtlens import sae as saes
from thoughtlens.core import digest_tree, write_json
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret

HOSTILE = [
    "</script><script>window.broken=1</script>",
    "<img src=x onerror='window.broken=1'>",
    "line\u2028separator and \u2029 paragraph",
    "\u202eright to left\u202c",
    "lone byte <c3> and \ufffd, \u200f mark",
    '");alert(1);//',
    "{{7*7}} ${7*7}",
]


def thought_run(root: Path, n: int = 60, members: dict[str, Sequence[str]] | None = None) -> Path:
    """A run of three thoughts and two hooks: latent 3 fires on "mul" at hook 1, thought 2; 9 never.

    Problem i has the right answer i, and the model says so if i is even.
    """
    rng = np.random.default_rng(0)
    strengths = np.where(rng.random((n, 3, 2, D)) < 0.2, rng.random((n, 3, 2, D)), 0)
    label = rng.integers(0, 3, n)
    strengths[..., 3] = strengths[..., 9] = 0
    strengths[label == 1, 2, 1, 3] = 2 + rng.random((label == 1).sum())
    names = ["add", "</script><b>mul</b>", "mixed"]
    columns = {
        "operation": [names[i] for i in label],
        "model_answer": [str(i) for i in range(n)],
        "correct": [i % 2 == 0 for i in range(n)],
    }
    questions = [HOSTILE[i % len(HOSTILE)] for i in range(n)]
    thought_store(root / "acts", strengths, columns, questions=questions)
    for name, hooks in (members or {"": HOOKS}).items():
        planted_sae(root / "sae" / name, hooks)
    cfg = InterpretConfig(acts=root / "acts", sae=root / "sae", labels=("operation",))
    interpret(cfg, root / "interpret")
    return root


def full_run(root: Path) -> Path:
    """The same with the tables of every other stage: see `tables`; latents 2 and 11 were edited together."""
    thought_run(root)
    plant_interpret(root, D)
    plant_explain(root, D, HOSTILE)
    plant_lens(root, D, HOSTILE, ["p3", "p5"], list(HOOKS))
    plant_geometry(root, D, "elsewhere")
    plant_edit(root, [2, 11], ["p3", "p5"])
    plant_attention(root, HOSTILE[:3], ["p3", "p5"])
    return root


def large_run(root: Path, n: int) -> Path:
    """A run of one SAE with n latents: latent i says "says i word word .." and has two examples. The tables
    are written as wholes, so that this costs little."""
    rng = np.random.default_rng(0)
    problems, words = 8, rng.integers(0, 26, (4000, 6)).astype(np.uint8) + 97
    vocabulary = [bytes(w).decode() for w in words]
    thought_store(root / "acts", rng.normal(size=(problems, 3, 2, D)), {"operation": ["a", "b"] * 4})
    sae = saes.create(saes.TopKConfig(d_sae=n, k=32, normalization="none"), D, seed=0)
    sae.hook_names, sae.provenance = list(HOOKS), {"split": "train", "thoughts": None}
    saes.save(sae, root / "sae")
    latent = np.arange(n, dtype=np.int32)
    common = {"member": ["pooled"] * n, "latent": latent}
    density = rng.beta(0.5, 40, n)
    write(root / "interpret" / "latents.parquet", common | {
        "n_fires": (density * 1e6).astype(np.int64), "density": density, "mean_active": rng.gamma(2, 1, n),
        "n_problems": (density * 1e5).astype(np.int64), "max_active": rng.gamma(9, 1, n),
        "everywhere_reason": pa.array([None] * n, pa.string()),
    })  # fmt: skip
    write(root / "interpret" / "associations.parquet", common | {
        "factor": ["label:operation"] * n, "level": [f"level {i % 5}" for i in range(n)],
        "statistic": ["rate difference"] * n, "estimate": rng.normal(0, 0.1, n), "low": np.full(n, -0.1),
        "high": np.full(n, 0.1), "q_value": np.full(n, 0.01), "n_fires": latent, "n_problems": latent,
    })  # fmt: skip
    twice, cells = np.repeat(latent, 2), 6
    offsets = pa.array(np.arange(2 * n + 1, dtype=np.int32) * cells)
    hooks = pa.DictionaryArray.from_arrays(np.tile([0, 0, 0, 1, 1, 1], 2 * n).astype(np.int32), list(HOOKS))
    write(root / "interpret" / "top_examples.parquet", {
        "member": ["pooled"] * 2 * n, "latent": twice, "rank": np.tile([0, 1], n),
        "value": np.full(2 * n, 2.0),
        "hook_name": [HOOKS[1]] * 2 * n, "problem_id": [f"p{i % problems}" for i in range(2 * n)],
        "split": ["test"] * 2 * n, "question": [f"question {i % problems}" for i in range(2 * n)],
        "thought_idx": np.full(2 * n, 2), "strip_hook": pa.ListArray.from_arrays(offsets, hooks),
        "strip_thought": pa.ListArray.from_arrays(offsets, pa.array(np.tile([0, 1, 2], 4 * n))),
        "acts": pa.ListArray.from_arrays(offsets, pa.array(rng.gamma(1, 1, 2 * n * cells))),
    })  # fmt: skip
    member = {
        "member": "pooled", "hook_names": list(HOOKS), "thoughts": [0, 1, 2], "kind": "topk", "d_sae": n,
        "l0": 32.0, "n": 10**6, "n_problems": 10**5, "n_alive": int((density > 0).sum()), "n_everywhere": 0,
        "split": "test", "warnings": [],
    }  # fmt: skip
    write_json(root / "interpret" / "result.json", {
        "stage": "interpret", "kind": "thoughts", "split": "test", "members": [member], "definitions": {},
        "digest": digest_tree(root / "interpret"), "versions": {"thoughtlens": "0"}, "histogram_edges": [],
        "config_identity": "", "seconds": 0.0, "git_commit": None,
        "machine": {"system": "none", "cpus": None},
    })  # fmt: skip
    said = rng.integers(0, len(vocabulary), (n, 9))
    plant_explain(
        root, n, [f"says {i} word {' '.join(vocabulary[j] for j in row)}" for i, row in enumerate(said)]
    )
    plant_lens(root, n, vocabulary, ["p0"], list(HOOKS))
    plant_geometry(root, n, "elsewhere")
    return root
