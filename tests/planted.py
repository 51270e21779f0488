"""Stores whose latents are known: activations are sums of orthonormal directions, so that an SAE made of
these directions gives back exactly the strengths that were planted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from thoughtlens import sae as saes
from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.acts.store.writer import StoreWriter

HOOKS = ("layers.0:out", "layers.1:out")
D = 16
"""d_in and d_sae."""


def planted_sae(root: Path, hooks: Sequence[str] = HOOKS, thoughts: list[int] | None = None) -> Path:
    """An SAE whose latent j fires exactly with the strength of unit direction j."""
    sae = saes.create(saes.ReLUConfig(d_sae=D, normalization="none"), D, seed=0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(D))
        sae.W_dec.copy_(torch.eye(D))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    sae.hook_names = list(hooks)
    sae.provenance = {"split": "train", "thoughts": thoughts}
    saes.save(sae, root)
    return root


def thought_store(
    root: Path,
    strengths: np.ndarray,
    labels: dict[str, list],
    splits: Sequence[str] | None = None,
    questions: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> Path:
    """A store of thoughts with the given latent strengths [problems, thoughts, hooks, D], float32."""
    n, n_thoughts, n_hooks, _ = strengths.shape
    hooks = list(HOOKS[:n_hooks])
    meta = StoreMeta(
        kind="thoughts", model="planted", hook_names=hooks, d_in=dict.fromkeys(hooks, D), dtype="float32",
        thought_convention="0 is the begin-of-thought position",
    )  # fmt: skip
    writer = StoreWriter(root, meta, shard_rows=64)
    ids = [f"p{i}" for i in range(n)]
    flat = torch.from_numpy(strengths.astype(np.float32)).flatten(0, 1)
    rows = {"problem_id": np.repeat(ids, n_thoughts), "thought_idx": np.tile(np.arange(n_thoughts), n)}
    writer.append({hook: flat[:, h] for h, hook in enumerate(hooks)}, rows)
    table = {
        "problem_id": ids,
        "group_id": list(groups or ids),
        "split": list(splits or ["test"] * n),
        "question": list(questions or [f"question {i}" for i in range(n)]),
        "answer": [str(i) for i in range(n)],
        "cot": [""] * n,
        **labels,
    }
    writer.finish(pa.table(table))
    return root


def text_store(
    root: Path,
    model: Path,
    documents: Sequence[Sequence[int]],
    strengths: Sequence[np.ndarray],
    splits: Sequence[str] | None = None,
) -> Path:
    """A store of token positions: token ids and latent strengths [tokens, D] of every document.

    Without splits all documents are copies of one test document.
    """
    meta = StoreMeta(
        kind="text", model=str(model), hook_names=[HOOKS[0]], d_in={HOOKS[0]: D}, dtype="float32"
    )
    writer = StoreWriter(root, meta, shard_rows=64)
    ids = [f"d{i}" for i in range(len(documents))]
    rows = {
        "problem_id": np.repeat(ids, [len(d) for d in documents]),
        "token_id": np.concatenate([np.asarray(d) for d in documents]),
        "position": np.concatenate([np.arange(len(d)) + 1 for d in documents]),
    }
    writer.append({HOOKS[0]: torch.from_numpy(np.concatenate(strengths).astype(np.float32))}, rows)
    n = len(ids)
    texts = ["text"] * n if splits is None else [f"text {i}" for i in range(n)]
    table = {"problem_id": ids, "group_id": ids, "split": list(splits or ["test"] * n), "question": texts}
    writer.finish(pa.table(table | {"answer": [""] * n, "cot": [""] * n}))
    return root
