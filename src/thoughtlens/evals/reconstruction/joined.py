"""Transcoders and crosscoders on held-out rows: what they are given, what should come out, and baselines.

A transcoder is judged on its output hook. A crosscoder is judged on each of its sites and on all: its
sites are the cells, all vectors of a row share one code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import MismatchError
from thoughtlens.evals.reconstruction.fit import BaselineName
from thoughtlens.evals.reconstruction.subject import Batch, Subject
from thoughtlens.sae.base import SAE, SparseActs
from thoughtlens.sae.baselines.base import Baseline, MeanPredictor
from thoughtlens.sae.baselines.pca import PCA, Covariance
from thoughtlens.sae.baselines.reduced_rank import CrossCovariance
from thoughtlens.sae.kinds.crosscoder import Crosscoder
from thoughtlens.sae.kinds.transcoder import Transcoder
from thoughtlens.sae.normalization import Cell
from thoughtlens.sae.rows.members import Member
from thoughtlens.sae.rows.sources import Joined, JoinedView, open_source

DEFINITIONS = {
    "linear_l0, linear_live": "transcoders: least-squares linear map from input to output of a rank as large "
    "as the L0 rounded, or as the live latents (reduced-rank regression), fitted on training rows",
    "pca_l0, pca_live (crosscoders)": "principal components of all sites side by side, each in the "
    "crosscoder's units",
    "cells of a crosscoder": "its sites; within: centred on each site's mean",
}


class JoinedSubject(Subject):
    """A transcoder or crosscoder on the rows of a store's split.

    Raises:
        MismatchError: the store has another hook, width or model than it.
        HookError: the store lacks a hook.
        DataError: no rows in the split, or problems without one of the thoughts.
    """

    def __init__(self, store: ActivationStore, name: str, sae: SAE, split: str) -> None:
        super().__init__(store, name, sae, split)
        self._drop, self.drops_outliers = self.drops_outliers, False  # flagged rows are not even read
        self.input_cells = self.cells
        thoughts = None if self.thoughts is None else tuple(self.thoughts)
        self.member = Member(name, tuple(sae.hook_names), thoughts)
        self._source = self._open(split)
        if self._source.d_out != sae.d_out:
            raise MismatchError(
                f"{self.label} writes width {sae.d_out} but {sae.cfg.hook_out!r} in {store.root} has "
                f"{self._source.d_out}: it belongs to another model. Give the store it was trained on"
            )
        self.cells = _judged_cells(sae, self.input_cells)

    @property
    def source(self) -> JoinedView:
        """Its rows in the split, as training reads them."""
        return self._source

    @property
    def n_sites(self) -> int:
        """Vectors in a row."""
        return self._source.n_sites

    def training_source(self) -> JoinedView:
        """Its rows in the split that it was trained on."""
        return self._open(self.train_split)

    def targets(self, n: int, seed: int) -> Float[Tensor, "n d_out"]:
        """A sample of what should come out."""
        return _target(self._source.sample(-(-n // self._source.n_sites), seed))

    def batches(self) -> Iterator[Batch]:
        """The held-out rows in order; flagged ones are left out where they were in training."""
        for batch in self._source.sequential(self.batch_rows):
            yield self.batch(batch, self._source)

    def batch(self, batch: Joined, source: JoinedView) -> Batch:
        """Rows of a source with their targets, and the cell and problem of every vector that is judged."""
        device, sites = self.sae.W_enc.device, source.n_sites
        problem = self.store.problem_idx[source.rows_of(batch.idx)]
        cell = self.cell_of(batch.cell) if sites == 1 else np.tile(np.arange(sites), len(batch.idx))
        kept = np.ones(len(batch.idx) * sites, bool)
        return Batch(
            batch.x.to(device), cell, np.repeat(problem, sites), kept, _target(batch).to(device)
        )  # fmt: skip

    def reconstruct(self, model: SAE | Baseline, batch: Batch) -> tuple[Tensor, SparseActs]:
        """What comes out, site by site, and the acts behind it."""
        cells = self.cells if isinstance(self.sae, Crosscoder) else self.input_cells
        cell = model.cell_index(cells, batch.cell[:: batch.n_sites])
        acts = model.encode_sparse(batch.x, cell)
        if isinstance(model, Transcoder):
            return model.decode_sparse(acts, cell, batch.x), acts
        return model.decode_sparse(acts, cell).flatten(0, -2), acts

    def _open(self, split: str) -> JoinedView:
        source = open_source(self.sae.cfg, self.store, self.member, split, self._drop)
        assert isinstance(source, JoinedView)
        return source


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


def subject_of(store: ActivationStore, name: str, sae: SAE, split: str) -> Subject:
    """An SAE of any kind on the rows of a split."""
    return (Subject if sae.reconstructs else JoinedSubject)(store, name, sae, split)


@torch.no_grad()
def fit_joined(
    subject: JoinedSubject, names: Sequence[BaselineName], *, l0: float, n_live: int, n_rows: int, seed: int
) -> dict[str, Baseline]:
    """Baselines for a transcoder or crosscoder, on `n_rows` random training rows (all, if there are fewer).

    `mean` and `cell_mean` are of what should come out; `pca_l0` and `pca_live` ask for a linear map of that
    rank (named `linear_*`) or for components of all sites. There is no random one.
    """
    found: dict[str, Baseline] = {}
    ranks = {"l0": max(1, round(l0)), "live": max(1, n_live)}
    wanted = {name: k for name, k in ranks.items() if f"pca_{name}" in names}
    x_mean, y_mean = (_means(subject, n_rows, seed, side) for side in ("x", "target"))
    if "mean" in names:
        found["mean"] = MeanPredictor(y_mean[1][None].float())
    if "cell_mean" in names and len(subject.cells) > 1:
        found["cell_mean"] = MeanPredictor(y_mean[0].float(), subject.cells)
    sae = subject.sae
    if wanted and isinstance(sae, Crosscoder):
        covariance = Covariance(subject.width)
        for batch in _training(subject, n_rows, seed):
            covariance.update(sae.normalize(batch.x).flatten(1))
        whole = covariance.pca(min(max(wanted.values()), subject.width))
        found |= {f"pca_{name}": JointPCA(whole.first(k), sae) for name, k in wanted.items()}
    elif wanted:
        cells = None if sae.cells is None else subject.input_cells
        x_centre, y_centre = (means if cells else overall[None] for means, overall in (x_mean, y_mean))
        cross = CrossCovariance(sae.d_in, sae.d_out)
        for batch in _training(subject, n_rows, seed):
            cell = torch.from_numpy(batch.cell) if cells else torch.zeros(len(batch.cell), dtype=torch.long)
            cross.update(
                batch.x.double().cpu() - x_centre[cell], batch.target.double().cpu() - y_centre[cell]
            )
        whole = cross.map(max(wanted.values()), x_centre, y_centre, cells)
        found |= {f"linear_{name}": whole.first(k) for name, k in wanted.items()}
    return {name: model.to(sae.W_enc.device) for name, model in found.items()}


def _judged_cells(sae: SAE, inputs: list[Cell]) -> list[Cell]:
    if not isinstance(sae, Crosscoder):
        return [(sae.cfg.hook_out, thought) for _, thought in inputs]
    if sae.cfg.over == "layers":
        return [(hook, None) for hook in sae.hook_names]
    return inputs


def _target(batch: Joined) -> Float[Tensor, "n d_out"]:
    return batch.x.flatten(0, -2) if batch.y is None else batch.y


def _means(subject: JoinedSubject, n_rows: int, seed: int, side: str) -> tuple[Tensor, Tensor]:
    """Mean of x or of the targets by judged cell, and of all."""
    totals: Tensor | None = None
    counts = torch.zeros(len(subject.cells), dtype=torch.float64)
    for batch in _training(subject, n_rows, seed):
        rows = getattr(batch, side).double().cpu().flatten(0, -2)
        if totals is None:
            totals = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64)
        totals.index_add_(0, torch.from_numpy(batch.cell), rows)
        counts += torch.bincount(torch.from_numpy(batch.cell), minlength=len(counts))
    assert totals is not None, "a view has rows"
    return totals / counts.clamp_min(1)[:, None], totals.sum(0) / counts.sum()


def _training(subject: JoinedSubject, n_rows: int, seed: int) -> Iterator[Batch]:
    """Random training rows, in the order that `seed` gives."""
    source = subject.training_source()
    left = min(n_rows, source.n)
    for batch in source.batches(subject.batch_rows, seed=seed):
        x, y = batch.x[:left], None if batch.y is None else batch.y[:left]
        yield subject.batch(Joined(x, batch.idx[:left], batch.cell[:left], y), source)
        left -= len(x)
        if left <= 0:
            return
