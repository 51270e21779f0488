"""Baselines for one SAE, fitted on the rows that it was trained on, never on the ones it is judged on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from thoughtlens.core import DataError
from thoughtlens.evals.reconstruction.subject import Subject
from thoughtlens.sae.baselines.base import Baseline, MeanPredictor
from thoughtlens.sae.baselines.pca import Covariance
from thoughtlens.sae.baselines.random_sae import RandomSAE
from thoughtlens.sae.normalization import Cell

BaselineName = Literal["pca_l0", "pca_live", "random", "mean", "cell_mean"]
ALL: tuple[BaselineName, ...] = ("pca_l0", "pca_live", "random", "mean", "cell_mean")
SCALE_ROWS = 8192
"""Training vectors behind the random SAE's thresholds and scale."""

DEFINITIONS = {
    "pca_l0": "principal components of the training rows, k = the SAE's l0 rounded",
    "pca_live": "principal components of the training rows, k = the SAE's live latents, at most d_in",
    "random": "random unit directions with the SAE's kind, width, normalisation and l0; one scale fitted",
    "mean": "the mean of the training rows",
    "cell_mean": "the mean of the training rows of the same (hook, thought)",
}


def fit_baselines(
    subject: Subject, names: Sequence[BaselineName], *, l0: float, n_live: int, n_rows: int, seed: int
) -> dict[str, Baseline]:
    """Fit the baselines asked for on `n_rows` random training vectors (all, if there are fewer).

    Where the SAE knows each cell's mean, so do PCA and the random SAE.

    Raises:
        DataError: the store has no rows of the training split, or none of a cell that is judged.
    """
    if not names:
        return {}
    means, overall = _means(subject, n_rows, seed)
    sae = subject.sae
    by_cell = sae.cells is not None
    found: dict[str, Baseline] = {}
    if "mean" in names:
        found["mean"] = MeanPredictor(overall[None].float())
    if "cell_mean" in names and len(subject.cells) > 1:
        found["cell_mean"] = MeanPredictor(means.float(), subject.cells)
    if {"pca_l0", "pca_live"} & set(names):
        centre, cells = (means, subject.cells) if by_cell else (overall[None], None)
        pca = _covariance(subject, centre, cells, n_rows, seed).pca(sae.d_in, mean=centre, cells=cells)
        wanted = {"pca_l0": max(1, round(l0)), "pca_live": max(1, n_live)}
        found |= {name: pca.first(min(k, sae.d_in)) for name, k in wanted.items() if name in names}
    if "random" in names and l0 > 0:
        sample = subject.training_view().sample(SCALE_ROWS, seed)
        device = sae.W_enc.device
        cell = sae.cell_index(subject.store.cells, sample.cell)
        found["random"] = RandomSAE.like(sae, sample.x.to(device), cell, l0=l0, seed=seed)
    return {name: found[name].to(sae.W_enc.device) for name in names if name in found}


def _means(
    subject: Subject, n_rows: int, seed: int
) -> tuple[Float64[Tensor, "n_cells d_in"], Float64[Tensor, " d_in"]]:
    """Mean of the training vectors by cell, and of all."""
    sums = torch.zeros(len(subject.cells), subject.sae.d_in, dtype=torch.float64)
    counts = torch.zeros(len(subject.cells), dtype=torch.float64)
    for x, cell in _training(subject, n_rows, seed):
        sums.index_add_(0, cell, x.double())
        counts += torch.bincount(cell, minlength=len(counts))
    if not counts.all():
        empty = subject.cells[int((counts == 0).nonzero()[0, 0])]
        raise DataError(
            f"{subject.label}: no training rows of the cell {empty} among {n_rows:,} vectors; "
            f"raise baseline_rows, or leave baselines empty"
        )
    return sums / counts[:, None], sums.sum(0) / counts.sum()


def _covariance(
    subject: Subject, centre: Tensor, cells: Sequence[Cell] | None, n_rows: int, seed: int
) -> Covariance:
    """Covariance of the training vectors about their mean, or about their cells' means."""
    covariance = Covariance(subject.sae.d_in)
    for x, cell in _training(subject, n_rows, seed):
        covariance.update(x.double() - (centre[0] if cells is None else centre[cell]))
    return covariance


def _training(subject: Subject, n_rows: int, seed: int):
    """Batches of (x, index into `subject.cells`), in the random order that `seed` gives."""
    view = subject.training_view()
    left = min(n_rows, view.n)
    for batch in view.batches(subject.batch_rows, seed=seed):
        keep = np.flatnonzero(subject.cell_of(batch.cell)[:left] >= 0)
        yield batch.x[keep], torch.from_numpy(subject.cell_of(batch.cell)[keep])
        left -= len(batch.x)
        if left <= 0:
            return
