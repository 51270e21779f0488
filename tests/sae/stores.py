"""Small activation stores with known contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.acts.store.writer import StoreWriter

PROBLEM_ROWS = 10


def write_store(
    root: Path,
    acts: dict[str, Tensor],
    *,
    thoughts: int | None = None,
    outlier: np.ndarray | None = None,
    labels: dict[str, list[str]] | None = None,
) -> Path:
    """A store of these activations; eight of ten problems are for training, one for validation.

    With `thoughts`, each problem has that many rows, one for each thought_idx; else it has ten. `labels`: a
    value for each problem.
    """
    n = len(next(iter(acts.values())))
    per_problem = thoughts or PROBLEM_ROWS
    meta = StoreMeta(
        kind="thoughts" if thoughts else "text",
        model="planted",
        hook_names=list(acts),
        d_in={hook: x.shape[1] for hook, x in acts.items()},
        dtype="float32",
        thought_convention="test" if thoughts else None,
    )
    problem = np.arange(n) // per_problem
    names = [f"p{i}" for i in range(problem[-1] + 1)]
    place = np.arange(n, dtype=np.int32) % per_problem
    rows = {"problem_id": [names[i] for i in problem]}
    if thoughts:
        rows["thought_idx"] = place
    else:
        rows |= {"token_id": place, "position": place}
    if outlier is not None:
        rows["outlier"] = outlier
    writer = StoreWriter(root, meta)
    writer.append(acts, rows)
    splits = [{8: "validation", 9: "test"}.get(i % 10, "train") for i in range(len(names))]
    writer.finish(pa.table({"problem_id": names, "group_id": names, "split": splits} | (labels or {})))
    return root


def planted(
    n_rows: int, d_in: int, n_atoms: int, density: float, seed: int, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Rows made of independent sparse codes on random unit atoms, and the atoms.

    Code j of a row is, with probability `density`, uniform on [1, 2], else 0; `offset` shifts all rows.
    """
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(n_atoms, d_in, generator=generator)
    atoms = atoms / atoms.norm(dim=1, keepdim=True)
    fires = torch.rand(n_rows, n_atoms, generator=generator) < density
    codes = fires * (1 + torch.rand(n_rows, n_atoms, generator=generator))
    return codes @ atoms + offset, atoms
