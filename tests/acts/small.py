"""Small stores whose every value follows from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.acts.store.writer import StoreWriter

N_THOUGHTS = 7
SPLITS = ("train", "train", "train", "validation", "test")


def meta(kind: str = "thoughts", dtype: str = "float32", d_in: dict[str, int] | None = None) -> StoreMeta:
    d_in = d_in or {"layers.1:out": 5, "layers.2:out": 5}
    return StoreMeta(
        kind=kind,
        model="toy",
        model_digest="0" * 64,
        hook_names=list(d_in),
        modules={hook: f"model.{hook.split(':')[0]}" for hook in d_in},
        d_in=d_in,
        dtype=dtype,
        thought_convention="0 = begin of thought" if kind == "thoughts" else None,
    )


def acts(meta: StoreMeta, n: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {hook: torch.randn(n, meta.d_in[hook], generator=generator) for hook in meta.hook_names}


def columns(kind: str, first: int, stop: int) -> dict[str, np.ndarray | list]:
    """Problem `p3` has the rows 21..27; every fifth row is an outlier in a text."""
    rows = np.arange(first, stop)
    ids = [f"p{row // N_THOUGHTS}" for row in rows]
    if kind == "thoughts":
        return {"problem_id": ids, "thought_idx": rows % N_THOUGHTS}
    position = rows % N_THOUGHTS
    return {"problem_id": ids, "token_id": rows * 31 % 97, "position": position, "outlier": rows % 5 == 0}


def problems(n_rows: int) -> pa.Table:
    """One problem each 7 rows; three fifths of them are for training."""
    n = -(-n_rows // N_THOUGHTS)
    return pa.table(
        {
            "problem_id": [f"p{i}" for i in range(n)],
            "group_id": [f"g{i // 2}" for i in range(n)],
            "split": [SPLITS[i % 5] for i in range(n)],
            "question": [f"What is {i} + {i}?" for i in range(n)],
            "answer": [str(2 * i) for i in range(n)],
            "cot": [""] * n,
        }
    )


def parts(n: int, size: int, first: int = 0) -> Iterator[tuple[int, int]]:
    for start in range(first, n, size):
        yield start, min(start + size, n)


def append(writer: StoreWriter, x: dict[str, Tensor], start: int, stop: int, cursor: bool = True) -> None:
    batch = {hook: values[start:stop] for hook, values in x.items()}
    rows = columns(writer.meta.kind, start, stop)
    writer.append(batch, rows, cursor={"next_row": stop} if cursor else None)


def write(
    root: Path, meta: StoreMeta, n: int = 37, *, shard_rows: int = 10, size: int = 8, seed: int = 0
) -> ActivationStore:
    writer = StoreWriter(root, meta, shard_rows)
    x = acts(meta, n, seed)
    for start, stop in parts(n, size):
        append(writer, x, start, stop)
    writer.finish(problems(n))
    return ActivationStore.open(root)


def files(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}
