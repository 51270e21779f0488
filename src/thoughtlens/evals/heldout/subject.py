"""One SAE, the rows it is judged on, and whether its numbers can mean anything there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.acts import ROWS, ActivationStore, View, ViewBatch, stream
from thoughtlens.core import DataError, Json, MismatchError, digest
from thoughtlens.latents import check_hooks, member_thoughts
from thoughtlens.sae import SAE, Baseline, Cell, JoinedView, SparseActs, of_another_model

MIN_ROWS_PER_DIM = 10
BATCH_ACTS = 2**24
"""Latent activations computed at once, so that memory does not grow with the rows."""
BATCH_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Batch:
    """Held-out vectors and where they come from.

    A crosscoder reads several vectors at once: then x has `n // n_sites` rows, and what is judged has n.
    """

    x: Float[Tensor, "rows ..."]
    cell: Int[np.ndarray, " n"]
    """Index into `Subject.cells`."""
    problem: Int[np.ndarray, " n"]
    """Line of the problems table."""
    kept: Bool[np.ndarray, " n"]
    """False for rows of massive norm that the SAE was trained without."""
    target: Float[Tensor, "n d_out"]
    """What should come out; x itself of an SAE that reconstructs."""

    @property
    def n_sites(self) -> int:
        """Judged vectors of each row of x."""
        return len(self.cell) // max(1, len(self.x))

    def first(self, n: int) -> Batch:
        """The first n rows of x, and what belongs to them."""
        own = slice(n * self.n_sites)
        return Batch(self.x[:n], self.cell[own], self.problem[own], self.kept[own], self.target[own])


class Subject:
    """An SAE of a directory on the rows of a store's split.

    Raises:
        MismatchError: the store has another hook, width or model than the SAE.
        DataError: no rows in the split.
    """

    def __init__(self, store: ActivationStore, name: str, sae: SAE, split: str) -> None:
        check_hooks(store, sae, name)
        check_model(store, sae, name)
        self.store, self.sae, self.split = store, sae, split
        self.label = name
        self.train_split: str = sae.provenance.get("split") or "train"
        self.thoughts = member_thoughts(store, sae)
        flagged = "outlier" in row_columns(store)
        self.drops_outliers = flagged and bool(sae.provenance.get("drop_outliers"))
        self.view = store.view(sae.hook_names, split, self.thoughts)
        self.cells: list[Cell] = [(h, t) for h in sae.hook_names for t in (self.thoughts or [None])]
        self._cell = np.full(len(store.cells), -1)
        self._cell[[store.cells.index(cell) for cell in self.cells]] = np.arange(len(self.cells))

    @property
    def batch_rows(self) -> int:
        """Vectors read at once."""
        return max(1, min(BATCH_ROWS, BATCH_ACTS // self.sae.d_sae))

    @cached_property
    def elsewhere(self) -> bool:
        """Whether it was trained on another store, or on nobody knows what: no row here is one of those."""
        return self.sae.provenance.get("acts_digest") != digest(self.store.root)

    @property
    def source(self) -> View | JoinedView:
        """Its rows in the split, as training reads them."""
        return self.view

    @property
    def n_sites(self) -> int:
        """Vectors in a row."""
        return 1

    @property
    def width(self) -> int:
        """Numbers that a row holds."""
        return self.sae.d_in * self.n_sites

    def training_source(self) -> View | JoinedView:
        """Its rows in the split that it was trained on, without those it was trained without."""
        return self.store.view(self.sae.hook_names, self.train_split, self.thoughts, self.drops_outliers)

    def targets(self, n: int, seed: int) -> Float[Tensor, "n d_out"]:
        """A sample of what should come out."""
        return self.batch(self.source.sample(-(-n // self.n_sites), seed), self.source).target

    def reconstruct(self, model: SAE | Baseline, batch: Batch) -> tuple[Tensor, SparseActs]:
        """x_hat, and the acts behind it."""
        cell = model.cell_index(self.cells, batch.cell)
        acts = model.encode_sparse(batch.x, cell)
        return model.decode_sparse(acts, cell, batch.x), acts

    def batches(self) -> Iterator[Batch]:
        """The held-out rows in order."""
        for batch in self.source.sequential(self.batch_rows):
            yield self.batch(batch, self.source)

    def training(self, n_rows: int, seed: int) -> Iterator[Batch]:
        """At most `n_rows` rows that it was trained on, in the random order that `seed` gives."""
        source = self.training_source()
        left = min(n_rows, source.n)
        for batch in source.batches(self.batch_rows, seed=seed):
            yield self.batch(batch, source).first(left)
            left -= len(batch.x)
            if left <= 0:
                return

    def batch(self, batch: ViewBatch, source: View | JoinedView) -> Batch:
        """Rows of a source, with the cell and problem of every vector that is judged."""
        rows = source.rows_of(batch.idx)
        kept = ~self._outlier[rows] if self.drops_outliers else np.ones(len(rows), bool)
        x = batch.x.to(self.sae.W_enc.device)
        return Batch(x, self.cell_of(batch.cell), self.store.problem_idx[rows], kept, x)

    def cell_of(self, cell: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Indices into the store's cells as indices into `cells`."""
        return self._cell[cell]

    @cached_property
    def _outlier(self) -> Bool[np.ndarray, " n_rows"]:
        batches = stream(self.store.root / ROWS, ["outlier"])
        return np.concatenate([b["outlier"].to_numpy(zero_copy_only=False) for b in batches])


def check_model(store: ActivationStore, sae: SAE, name: str) -> None:
    """Raise MismatchError if the SAE was trained on another model, module or count of thoughts."""
    if other := of_another_model(sae, store):
        raise MismatchError(
            f"The SAE {name!r} was {other}. Give the store it was trained on, or one of the same model"
        )


def check_store(store_digest: str, reading: Json, sae: SAE, name: str, force: bool) -> list[str]:
    """Refuse an SAE trained on another store, unless forced; then say so."""
    mine = sae.provenance.get("acts_digest")
    if mine is None:
        return [f"{name}: the SAE does not say which store it was trained on; the split may not be held out"]
    if mine == store_digest:
        return []
    text = (
        f"{name}: the SAE was trained on the store {mine[:12]} (digest), this one is {store_digest[:12]}: "
        f"its splits are not known to be held out"
    )
    theirs = sae.provenance.get("reading") or {}
    other = [
        f"{key} was {theirs[key]}, is {value}"
        for key, value in reading.items()
        if theirs.get(key, value) != value
    ]
    text += f"; made with other settings: {', '.join(other)}" if other else ""
    if not force:
        raise MismatchError(
            f"{text}. Give the store it was trained on, or set force=true to get marked numbers"
        )
    return [text]


@torch.no_grad()
def objections(subject: Subject) -> list[str]:
    """Why this SAE's numbers would mean nothing on these rows; empty where they may."""
    store, sae = subject.store, subject.sae
    found = []
    if subject.split == subject.train_split:
        found.append(
            f"split {subject.split!r} is what the SAE was trained on: evaluation rows = training rows"
        )
    elif shared := shared_groups(store, subject.split, subject.train_split):
        found.append(
            f"{shared} groups of problems are both in {subject.split!r} and in the training split "
            f"{subject.train_split!r} (one group_id, or one text up to case, space, punctuation): the rows "
            f"are not held out"
        )
    n_train = training_rows(subject)
    if n_train is not None and n_train < MIN_ROWS_PER_DIM * sae.d_in:
        found.append(
            f"trained on {n_train:,} vectors of width {sae.d_in}: fewer than {MIN_ROWS_PER_DIM} per "
            f"dimension, a dictionary memorises them"
        )
    elif n_train is not None and n_train < sae.d_sae:
        found.append(
            f"trained on {n_train:,} vectors for {sae.d_sae:,} latents: fewer than one for each, a "
            f"dictionary can memorise them"
        )
    sample = subject.source.sample(min(subject.batch_rows, subject.source.n), seed=0)
    acts = sae.encode(sample.x.to(sae.W_enc.device), sae.cell_index(store.cells, sample.cell))
    l0 = (acts != 0).sum(1).double().mean().item()
    if l0 > subject.width / 4:
        found.append(
            f"L0 is {l0:.1f} on rows of width {subject.width}: above d_in / 4, where any dictionary "
            f"reconstructs"
        )
    return found


def training_rows(subject: Subject) -> int | None:
    """Different vectors that it was trained on: those of its training split, or as many as it says that it
    has seen, whichever are fewer; None if the store has none, or is not what it was trained on."""
    if subject.elsewhere:
        return None
    try:
        stored = subject.training_source().n
    except DataError:
        return None
    seen = subject.sae.provenance.get("rows_seen")
    return stored if seen is None else min(stored, int(seen))


def shared_groups(store: ActivationStore, split: str, other: str) -> int:
    """Number of groups that have problems in both splits."""
    splits = np.array(store.problems["split"].to_pylist(), object)
    return len(np.intersect1d(store.group_idx[splits == split], store.group_idx[splits == other]))


def row_columns(store: ActivationStore) -> list[str]:
    """Names of the columns of `rows.parquet`."""
    return pq.read_schema(store.root / ROWS).names
