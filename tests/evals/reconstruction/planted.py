"""Stores and SAEs whose every number is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from thoughtlens import sae as saes
from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.core import digest
from thoughtlens.evals.reconstruction.config import ValidateConfig

D, ATOMS, ROWS = 16, 12, 10
HOOKS = ("layers.0:out", "layers.1:out")


def codes(n, seed=0, density=0.15):
    generator = torch.Generator().manual_seed(seed)
    fires = torch.rand(n, ATOMS, generator=generator) < density
    return fires * (1 + torch.rand(n, ATOMS, generator=generator))


def atoms(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(D, D, generator=generator))[0][:ATOMS]


def write(root, acts, *, thoughts=None, outlier=None, groups=None, meta=None):
    """A store of these activations, ten rows (or one per thought) per problem; 7 : 3 train and test."""
    n = len(next(iter(acts.values())))
    per_problem = thoughts or ROWS
    writer = StoreWriter(
        root,
        StoreMeta(
            kind="thoughts" if thoughts else "text", model="planted", hook_names=list(acts),
            d_in={hook: x.shape[1] for hook, x in acts.items()}, dtype="float32", **(meta or {}),
        ),
    )  # fmt: skip
    problem, place = np.divmod(np.arange(n), per_problem)
    ids = [f"p{i}" for i in range(problem[-1] + 1)]
    rows = {"problem_id": [ids[i] for i in problem]}
    rows |= {"thought_idx": place} if thoughts else {"token_id": place, "position": place}
    writer.append(acts, rows if outlier is None else rows | {"outlier": outlier})
    splits = ["test" if i % 10 >= 7 else "train" for i in range(len(ids))]
    writer.finish(pa.table({"problem_id": ids, "group_id": groups or ids, "split": splits}))
    return root


def in_test(n, per_problem=ROWS):
    return torch.from_numpy(np.arange(n) // per_problem % 10 >= 7)


def oracle(root, acts, hooks=HOOKS[:1], **provenance):
    """An SAE that knows the atoms; it fires exactly where they were planted."""
    sae = saes.create(saes.ReLUConfig(d_sae=ATOMS, normalization="none"), D, seed=0)
    with torch.no_grad():
        sae.W_dec.copy_(atoms())
        sae.W_enc.copy_(atoms().T)
        sae.b_enc.fill_(-0.5)  # codes are 0 or above 1
        sae.b_dec.zero_()
    sae.hook_names = list(hooks)
    sae.provenance = {"split": "train", "acts_digest": digest(acts), "thoughts": None} | provenance
    saes.save(sae, root)
    return root


def config(acts, sae, **changes):
    return ValidateConfig(acts=acts, sae=sae, **{"ce_tokens": 0} | changes)
