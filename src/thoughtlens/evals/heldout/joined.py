"""Transcoders and crosscoders on held-out rows: what they are given, and what should come out.

A transcoder is judged on its output hook. A crosscoder is judged on each of its sites and on all: its
sites are the cells, all vectors of a row share one code.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts import ActivationStore, View, ViewBatch
from thoughtlens.core import MismatchError
from thoughtlens.evals.heldout.subject import Batch, Subject
from thoughtlens.sae import (
    SAE,
    Baseline,
    Cell,
    Crosscoder,
    Joined,
    JoinedView,
    Selection,
    SparseActs,
    open_source,
)


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
        self.member = Selection(name, tuple(sae.hook_names), thoughts)
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

    def batch(self, batch: ViewBatch, source: View | JoinedView) -> Batch:
        """Rows of a source with their targets, and the cell and problem of every vector that is judged."""
        assert isinstance(batch, Joined)
        sites, device = self.n_sites, self.sae.W_enc.device
        problem = self.store.problem_idx[source.rows_of(batch.idx)]
        cell = self.cell_of(batch.cell) if sites == 1 else np.tile(np.arange(sites), len(batch.idx))
        kept = np.ones(len(batch.idx) * sites, bool)
        x, target = batch.x.to(device), _target(batch).to(device)
        return Batch(x, cell, np.repeat(problem, sites), kept, target)

    def reconstruct(self, model: SAE | Baseline, batch: Batch) -> tuple[Tensor, SparseActs]:
        """What comes out, site by site, and the acts behind it."""
        cells = self.cells if isinstance(self.sae, Crosscoder) else self.input_cells
        cell = model.cell_index(cells, batch.cell[:: batch.n_sites])
        acts = model.encode_sparse(batch.x, cell)
        if isinstance(model, SAE) and not isinstance(model, Crosscoder):
            return model.decode_sparse(acts, cell, batch.x), acts
        return model.decode_sparse(acts, cell).flatten(0, -2), acts

    def _open(self, split: str) -> JoinedView:
        source = open_source(self.sae.cfg, self.store, self.member, split, self._drop)
        assert isinstance(source, JoinedView)
        return source


def subject_of(store: ActivationStore, name: str, sae: SAE, split: str) -> Subject:
    """An SAE of any kind on the rows of a split."""
    return (Subject if sae.reconstructs else JoinedSubject)(store, name, sae, split)


def _judged_cells(sae: SAE, inputs: list[Cell]) -> list[Cell]:
    if not isinstance(sae, Crosscoder):
        return [(sae.cfg.hook_out, thought) for _, thought in inputs]
    if sae.cfg.over == "layers":
        return [(hook, None) for hook in sae.hook_names]
    return inputs


def _target(batch: Joined) -> Float[Tensor, "n d_out"]:
    return batch.x.flatten(0, -2) if batch.y is None else batch.y
