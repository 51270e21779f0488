"""Baselines for one SAE, fitted on the rows that it was trained on, never on the ones it is judged on."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from thoughtlens.core import DataError
from thoughtlens.evals.heldout.joined import JoinedSubject
from thoughtlens.evals.heldout.subject import Subject
from thoughtlens.evals.reconstruction.config import ValidateConfig
from thoughtlens.sae import PCA, Baseline, Covariance, Crosscoder, CrossCovariance, MeanPredictor, RandomSAE

SCALE_ROWS = 8192
"""Training vectors behind the random SAE's thresholds and scale."""

DEFINITIONS = {
    "reconstructor pca_l0": "principal components of the training rows, k = the SAE's l0 rounded",
    "reconstructor pca_live": "principal components of the training rows, k = the SAE's live latents, at "
    "most d_in",
    "reconstructor random": "random unit directions with the SAE's kind, width, normalisation and l0; one "
    "scale fitted",
    "reconstructor mean": "the mean of the training rows",
    "reconstructor cell_mean": "the mean of the training rows of the same (hook, thought)",
    "linear_l0, linear_live": "transcoders: least-squares linear map from input to output of a rank as large "
    "as the L0 rounded, or as the live latents (reduced-rank regression), fitted on training rows",
    "pca_l0, pca_live (crosscoders)": "principal components of all sites side by side, each in the "
    "crosscoder's units",
    "cells of a crosscoder": "its sites; within: centred on each site's mean",
}

Ranks = dict[str, int]
"""How many components, by the baseline's last name: `l0`, `live`."""


class JointPCA(Baseline):
    """Principal components of all sites side by side, in a crosscoder's units."""

    def __init__(self, pca: PCA, sae: Crosscoder) -> None:
        super().__init__(sae.d_in, pca.d_sae)
        self.pca, self.sae = pca, sae

    def encode(
        self, x: Float[Tensor, "*batch n_sites d_in"], cell: Tensor | None = None
    ) -> Float[Tensor, "*batch k"]:
        """Scores, one code for all sites."""
        return self.pca.encode(self.sae.normalize(x).flatten(-2))

    def decode(
        self, acts: Float[Tensor, "*batch k"], cell: Tensor | None = None, x: Tensor | None = None
    ) -> Float[Tensor, "*batch n_sites d_in"]:
        """Raw reconstruction of every site."""
        return self.sae.denormalize(self.pca.decode(acts).unflatten(-1, (self.sae.n_sites, self.sae.d_in)))


@torch.no_grad()
def fit_baselines(subject: Subject, cfg: ValidateConfig, *, l0: float, n_live: int) -> dict[str, Baseline]:
    """Fit the config's baselines on `baseline_rows` random training rows (all, if there are fewer).

    Where the SAE knows each cell's mean, so do PCA and the random SAE. For a transcoder or crosscoder
    `mean` and `cell_mean` are of what should come out; `pca_l0` and `pca_live` ask for a linear map of that
    rank (named `linear_*`) or for components of all sites; there is no random one.

    Raises:
        DataError: the store has no rows of the training split, or none of a cell that is judged.
    """
    names, sae = cfg.baselines, subject.sae
    if not names:
        return {}
    means, overall = _means(subject, cfg, "target")
    found: dict[str, Baseline] = {}
    if "mean" in names:
        found["mean"] = MeanPredictor(overall[None].float())
    if "cell_mean" in names and len(subject.cells) > 1:
        found["cell_mean"] = MeanPredictor(means.float(), subject.cells)
    ranks = {"l0": max(1, round(l0)), "live": max(1, n_live)}
    ranks = {name: k for name, k in ranks.items() if f"pca_{name}" in names}
    if ranks and isinstance(subject, JoinedSubject):
        found |= _joint(subject, cfg, ranks) if isinstance(sae, Crosscoder) else _linear(subject, cfg, ranks)
    elif ranks:
        found |= _components(subject, cfg, ranks, means if sae.cells is not None else overall[None])
    if "random" in names and sae.reconstructs and l0 > 0:
        sample = subject.training_source().sample(SCALE_ROWS, cfg.seed)
        cell = sae.cell_index(subject.store.cells, sample.cell)
        x = sample.x.to(sae.W_enc.device)
        found["random"] = RandomSAE.like(sae, x, cell, l0=l0, seed=cfg.seed)
    order = names if sae.reconstructs else found
    return {name: found[name].to(sae.W_enc.device) for name in order if name in found}


def _means(
    subject: Subject, cfg: ValidateConfig, side: Literal["x", "target"]
) -> tuple[Float64[Tensor, "n_cells d"], Float64[Tensor, " d"]]:
    """Mean of the training inputs, or of what should come out, by judged cell; and of all."""
    sums: Tensor | None = None
    counts = torch.zeros(len(subject.cells), dtype=torch.float64)
    for batch in subject.training(cfg.baseline_rows, cfg.seed):
        rows = getattr(batch, side).double().cpu().flatten(0, -2)
        cell = torch.from_numpy(batch.cell)
        if sums is None:
            sums = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64)
        sums.index_add_(0, cell, rows)
        counts += torch.bincount(cell, minlength=len(counts))
    assert sums is not None, "a view has rows"
    if not counts.all():
        empty = subject.cells[int((counts == 0).nonzero()[0, 0])]
        raise DataError(
            f"{subject.label}: no training rows of the cell {empty} among {cfg.baseline_rows:,} vectors; "
            f"raise baseline_rows, or leave baselines empty"
        )
    return sums / counts[:, None], sums.sum(0) / counts.sum()


def _components(subject: Subject, cfg: ValidateConfig, ranks: Ranks, centre: Tensor) -> dict[str, Baseline]:
    """Principal components about the rows' mean, or about their cells' means."""
    sae = subject.sae
    cells = None if sae.cells is None else subject.cells
    covariance = Covariance(sae.d_in)
    for batch in subject.training(cfg.baseline_rows, cfg.seed):
        own = centre[0] if cells is None else centre[torch.from_numpy(batch.cell)]
        covariance.update(batch.x.double().cpu() - own)
    pca = covariance.pca(sae.d_in, mean=centre, cells=cells)
    return {f"pca_{name}": pca.first(min(k, sae.d_in)) for name, k in ranks.items()}


def _joint(subject: JoinedSubject, cfg: ValidateConfig, ranks: Ranks) -> dict[str, Baseline]:
    """Components of a crosscoder's sites side by side."""
    sae = subject.sae
    assert isinstance(sae, Crosscoder)
    covariance = Covariance(subject.width)
    for batch in subject.training(cfg.baseline_rows, cfg.seed):
        covariance.update(sae.normalize(batch.x).flatten(1))
    pca = covariance.pca(min(max(ranks.values()), subject.width))
    return {f"pca_{name}": JointPCA(pca.first(k), sae) for name, k in ranks.items()}


def _linear(subject: JoinedSubject, cfg: ValidateConfig, ranks: Ranks) -> dict[str, Baseline]:
    """Linear maps from a transcoder's input to its output."""
    sae = subject.sae
    cells = None if sae.cells is None else subject.input_cells
    x_mean, y_mean = (
        means if cells else overall[None]
        for means, overall in (_means(subject, cfg, "x"), _means(subject, cfg, "target"))
    )
    cross = CrossCovariance(sae.d_in, sae.d_out)
    for batch in subject.training(cfg.baseline_rows, cfg.seed):
        cell = torch.from_numpy(batch.cell) if cells else torch.zeros(len(batch.cell), dtype=torch.long)
        cross.update(batch.x.double().cpu() - x_mean[cell], batch.target.double().cpu() - y_mean[cell])
    whole = cross.map(max(ranks.values()), x_mean, y_mean, cells)
    return {f"linear_{name}": whole.first(k) for name, k in ranks.items()}
