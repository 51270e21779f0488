"""What is measured while an SAE trains, on fixed rows: enough to steer by, not the validation."""

from __future__ import annotations

import torch

from thoughtlens.numerics import FVU, ExplainedVarianceWithin
from thoughtlens.sae.fit.sources import Rows
from thoughtlens.sae.fit.track import Row
from thoughtlens.sae.kinds.base import SAE, counts

CHUNK_ACTS = 2**23
"""Activations computed at once, so that memory does not depend on how many rows are measured."""

DEFINITIONS = {
    "fvu_*": FVU.definition,
    "fvu_within_*": f"1 - explained_variance_within, which is {ExplainedVarianceWithin.definition}",
    "l0_*": "mean over rows of the number of acts != 0",
    "dead_*": "number of latents with act = 0 on every one of the n_* rows",
    "n_dead": "number of latents that fired on none of the last dead_after_rows training rows",
    "loss_*": "terms of the training loss, coefficients included, mean over the steps since the row before",
}


@torch.no_grad()
def measure(sae: SAE, rows: Rows, suffix: str) -> Row:
    """`fvu_*`, `l0_*`, `dead_*` and, where the rows come from several cells, `fvu_within_*`.

    A crosscoder's sites count as cells, its vectors as rows of the FVU.
    """
    device = sae.W_enc.device
    fvu, within = FVU(), ExplainedVarianceWithin()
    fired = torch.zeros(sae.d_sae, dtype=torch.long, device=device)
    chunk = max(1, CHUNK_ACTS // sae.d_sae)
    targets = rows.x if rows.y is None else rows.y
    parts = zip(rows.x.split(chunk), targets.split(chunk), rows.cell.split(chunk), strict=True)
    for x, target, cell in parts:
        x, target, index = x.to(device), target.to(device), sae.cell_index(rows.cells, cell)
        acts = sae.encode(x, index)
        x_hat = sae.decode(acts, index, x)
        fired += counts(acts, sae.d_sae)
        if x.ndim == 3:
            cell = torch.arange(x.shape[1]).repeat(len(x))
            target, x_hat = target.flatten(0, 1), x_hat.flatten(0, 1)
        fvu.update(target, x_hat)
        within.update(target, x_hat, cell)
    row: Row = {f"fvu_{suffix}": fvu.compute()}
    if len(rows.cells) > 1 or rows.x.ndim == 3:
        row[f"fvu_within_{suffix}"] = 1 - within.compute()
    row[f"l0_{suffix}"] = fired.sum().item() / len(rows.x)
    row[f"dead_{suffix}"] = int((fired == 0).sum())
    return row
