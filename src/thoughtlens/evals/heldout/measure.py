"""Reconstruction and sparsity on held-out rows, in a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from thoughtlens.acts import ViewBatch
from thoughtlens.core import DataError, progress
from thoughtlens.evals.heldout.records import (
    CellSpread,
    DensityBin,
    NormBin,
    Quantiles,
    Reconstructed,
    Sparsity,
)
from thoughtlens.evals.heldout.subject import Batch, Subject
from thoughtlens.numerics import (
    L0,
    L1,
    Dead,
    Density,
    ExplainedVarianceByNorm,
    ExplainedVarianceWithin,
    Moments,
    Reconstruction,
    defined,
    description_length,
    norm_deciles,
)
from thoughtlens.sae import SAE, Baseline, Cell, MeanPredictor, SparseActs

NORM_SAMPLE = 10_000
DESCRIBED = 20_000
"""Vectors, at most, whose description length is measured."""
FLAT = 0.01
"""Share of a cell's norm, or of the median spread at its hook, up to which its spread is next to none."""


class Total:
    """What the held-out rows are like before anything is reconstructed."""

    def __init__(self, subject: Subject) -> None:
        moments = Moments()
        for batch in subject.batches():
            moments += Moments.of(batch.target[torch.from_numpy(batch.kept)])
        if moments.mean is None:
            raise DataError(
                f"{subject.label}: every row of split {subject.split!r} is flagged as an outlier of norm; "
                f"extract with a larger outlier_factor"
            )
        self.mean: Tensor = moments.mean
        self.norm_edges = norm_deciles(subject.targets(NORM_SAMPLE, seed=0))


@dataclass(eq=False)
class Tally:
    """One reconstructor on the held-out rows: sums by cell, with and without flagged rows."""

    subject: Subject
    total: Total

    def __post_init__(self) -> None:
        self.parts: dict[tuple[int, bool], tuple[Reconstruction, L0]] = {}
        self.within = ExplainedVarianceWithin()
        self.by_norm = ExplainedVarianceByNorm(self.total.norm_edges)
        n_problems = self.subject.store.problems.num_rows
        self.error: Float64[np.ndarray, " n_problems"] = np.zeros(n_problems)
        self.spread: Float64[np.ndarray, " n_problems"] = np.zeros(n_problems)
        self.rows = np.zeros(n_problems, dtype=np.int64)

    def update(self, batch: Batch, x_hat: Tensor, acts: SparseActs) -> None:
        """Count a batch."""
        x, x_hat = batch.target.double(), x_hat.double()
        acts = _each(acts, len(x))
        for cell in np.unique(batch.cell):
            for kept in np.unique(batch.kept):
                inside = torch.from_numpy((batch.cell == cell) & (batch.kept == kept)).to(x.device)
                part, l0 = self.parts.setdefault((int(cell), bool(kept)), (Reconstruction(), L0()))
                part.update(x[inside], x_hat[inside])
                l0.update_sparse(acts.values[inside], acts.indices[inside])
        self.by_norm.update(x, x_hat)
        kept = torch.from_numpy(batch.kept).to(x.device)
        self._by_problem(batch.problem[batch.kept], x[kept], x_hat[kept])
        self.within.update(x[kept], x_hat[kept], torch.from_numpy(batch.cell[batch.kept]))

    def _by_problem(self, problem: np.ndarray, x: Tensor, x_hat: Tensor) -> None:
        n = len(self.rows)
        squares = ((x - x_hat).square().sum(1), (x - self.total.mean).square().sum(1))
        error, spread = (s.cpu().numpy() for s in squares)
        self.error += np.bincount(problem, weights=error, minlength=n)
        self.spread += np.bincount(problem, weights=spread, minlength=n)
        self.rows += np.bincount(problem, minlength=n)

    def over(self, cells: list[int] | None = None, *, flagged: bool = False) -> Reconstructed:
        """Every metric over some cells (None: all), flagged rows left out or in."""
        reconstruction, l0 = Reconstruction(), L0()
        for (cell, kept), (part, counts) in self.parts.items():
            if (cells is None or cell in cells) and (kept or flagged):
                reconstruction.merge(part)
                l0.merge(counts)
        within = defined(self.within) if cells is None and not flagged else None
        return Reconstructed(
            n=reconstruction.n, l0=defined(l0), **reconstruction.compute(), explained_variance_within=within
        )

    def spreads(self) -> list[CellSpread]:
        """How much the rows of each cell vary; of those that are not flagged."""
        found = []
        for cell, m in sorted(self.within.moments.items()):
            (hook, thought), square = self.subject.cells[cell], m.m2 / max(m.n, 1)
            norm = (square + (0.0 if m.mean is None else float(m.mean.square().sum()))) ** 0.5
            found.append(CellSpread(hook_name=hook, thought_idx=thought, spread=square**0.5, norm=norm))
        return found

    def bins(self) -> list[NormBin]:
        """Explained variance by |x|."""
        return [NormBin.from_json(row) for row in self.by_norm.compute()]


@dataclass(eq=False)
class Firing:
    """How the SAE's latents fire on the held-out rows that are not flagged."""

    sae: SAE

    def __post_init__(self) -> None:
        self.density, self.dead = Density(self.sae.d_sae), Dead(self.sae.d_sae)
        self.l0, self.l1 = L0(), L1(self.sae.W_dec.detach().flatten(1).norm(dim=1))

    def update(self, batch: Batch, acts: SparseActs) -> None:
        """Count a batch."""
        kept = torch.from_numpy(batch.kept[:: batch.n_sites]).to(acts.values.device)
        for part in (self.density, self.dead, self.l0, self.l1):
            part.update_sparse(acts.values[kept], acts.indices[kept])

    def sparsity(self) -> Sparsity:
        """The numbers over all latents."""
        n_dead, density = self.dead.compute(), self.density
        return Sparsity(
            n=density.n,
            l0=self.l0.compute(),
            l0_quantiles=Quantiles(**self.l0.quantiles()),
            l1=self.l1.compute(),
            n_dead=n_dead,
            dead_share=n_dead / self.sae.d_sae,
            dead_window=density.n,
            n_dense=density.n_dense(),
            effective_latents=density.effective_latents() if density.fires.any() else None,
            rule_of_three=density.rule_of_three(),
            density_histogram=[DensityBin.from_json(row) for row in density.histogram()],
        )


def flat_cells(spreads: Sequence[CellSpread]) -> list[Cell]:
    """The cells that hardly vary: explained variance there is a share of next to nothing.

    Their spread is below `FLAT` of their norm, or of the median spread at their hook.
    """
    of_hook: dict[str, list[float]] = {}
    for one in spreads:
        of_hook.setdefault(one.hook_name, []).append(one.spread)
    usual = {hook: float(np.median(found)) for hook, found in of_hook.items()}
    limits = [(one, FLAT * max(one.norm, usual[one.hook_name])) for one in spreads]
    return list(dict.fromkeys((s.hook_name, s.thought_idx) for s, limit in limits if s.spread <= limit))


@torch.no_grad()
def measure_sae(subject: Subject, total: Total) -> tuple[Tally, Firing]:
    """One pass of the SAE over the held-out rows."""
    tally, firing = Tally(subject, total), Firing(subject.sae)
    with progress(f"validate {subject.label}", subject.view.n, "vectors") as bar:
        for batch in subject.batches():
            x_hat, acts = reconstruct(subject.sae, subject, batch)
            tally.update(batch, x_hat, acts)
            firing.update(batch, acts)
            bar.advance(len(batch.x))
    return tally, firing


@torch.no_grad()
def describe(subject: Subject, spreads: Sequence[CellSpread], precision: float) -> tuple[float, ...] | None:
    """Bits of a held-out row, from at most `DESCRIBED`: in all; which latents, values, residual; without a
    dictionary.

    Rows are in units of their cell's standard deviation per dimension; cells that hardly vary are left out.
    None where all are.

    Args:
        subject: An SAE that reconstructs its own input.
        spreads: How much the rows of each cell vary.
        precision: Mean squared error up to which rows are described, as a share of their cell's variance.
    """
    flat = flat_cells(spreads)
    cells = [(s.hook_name, s.thought_idx) for s in spreads]
    unit = {c: s.spread / subject.sae.d_in**0.5 for c, s in zip(cells, spreads, strict=True) if c not in flat}
    units = np.array([unit.get(cell, 0.0) for cell in subject.cells])
    scales = _scales(subject)
    parts = [_described(subject, batch, units, scales) for batch in _sampled(subject)]
    cell, x, residual = (np.concatenate(part) for part in list(zip(*parts, strict=True))[:3])
    if not len(cell):
        return None
    for one in np.unique(cell):
        x[cell == one] -= x[cell == one].mean(0)
    written = sp.csr_array(sp.vstack([part.written for part in parts]))
    found = description_length(residual, written, precision)
    return found.total, *found, description_length(x, sp.csr_array((len(x), 1)), precision).total


@torch.no_grad()
def firings(subject: Subject) -> Int64[np.ndarray, " d_sae"]:
    """On how many of at most `DESCRIBED` held-out rows each latent fires."""
    density = Density(subject.sae.d_sae)
    for batch in _sampled(subject):
        acts = subject.reconstruct(subject.sae, batch)[1]
        density.update_sparse(acts.values, acts.indices)
    return density.fires


def _sampled(subject: Subject) -> Iterator[Batch]:
    source = subject.source
    sample = source.sample(min(DESCRIBED, source.n), seed=0)
    for start in range(0, len(sample.x), subject.batch_rows):
        own = slice(start, start + subject.batch_rows)
        yield subject.batch(ViewBatch(sample.x[own], sample.idx[own], sample.cell[own]), source)


class _Described(NamedTuple):
    """Rows in units of their cells."""

    cell: Int64[np.ndarray, " n"]
    x: Float64[np.ndarray, "n d"]
    residual: Float64[np.ndarray, "n d"]
    written: sp.csr_array
    """[n, d_sae]: the length of what each latent writes."""


def _described(subject: Subject, batch: Batch, units: np.ndarray, scales: np.ndarray) -> _Described:
    """The rows of a batch whose cell has a unit."""
    x_hat, acts = subject.reconstruct(subject.sae, batch)
    kept = np.flatnonzero(batch.kept & (units[batch.cell] > 0))
    cell = batch.cell[kept]
    row, slot = (acts.values != 0).nonzero(as_tuple=True)
    latent = acts.indices[row, slot]
    lengths = acts.values[row, slot].abs() * subject.sae.W_dec.norm(dim=1)[latent]
    where = row.numpy(force=True), latent.numpy(force=True)
    written = sp.csr_array(
        (lengths.double().numpy(force=True), where), shape=(len(batch.x), subject.sae.d_sae)
    )
    per_row = sp.diags_array(scales[cell] / units[cell])
    x, error = (t.double().numpy(force=True)[kept] / units[cell, None] for t in (batch.x, batch.x - x_hat))
    return _Described(cell, x, error, sp.csr_array(per_row @ written[kept]))


def _scales(subject: Subject) -> Float64[np.ndarray, " cells"]:
    """By cell, how many times the length of its row of W_dec a latent of activation 1 writes."""
    sae, n = subject.sae, len(subject.cells)
    cell = sae.cell_index(subject.cells, np.arange(n))
    norms = sae.W_dec.norm(dim=1)
    one = torch.zeros(n, sae.d_sae, dtype=sae.W_dec.dtype, device=sae.W_dec.device)
    base = sae.decode(one, cell)
    one[:, norms.argmax()] = 1
    return ((sae.decode(one, cell) - base).norm(dim=1) / norms.max()).double().numpy(force=True)


@torch.no_grad()
def measure_baselines(subject: Subject, total: Total, baselines: dict[str, Baseline]) -> dict[str, Tally]:
    """One pass of all baselines over the held-out rows."""
    tallies = {name: Tally(subject, total) for name in baselines}
    if not baselines:
        return tallies
    with progress(f"baselines {subject.label}", subject.view.n, "vectors") as bar:
        for batch in subject.batches():
            for name, baseline in baselines.items():
                tallies[name].update(batch, *reconstruct(baseline, subject, batch))
            bar.advance(len(batch.x))
    return tallies


def reconstruct(model: SAE | Baseline, subject: Subject, batch: Batch) -> tuple[Tensor, SparseActs]:
    """x_hat of every judged vector, and the acts behind it."""
    if isinstance(model, MeanPredictor):
        cell = model.cell_index(subject.cells, batch.cell)
        acts = model.encode_sparse(batch.target, cell)
        return model.decode_sparse(acts, cell), acts
    return subject.reconstruct(model, batch)


def _each(acts: SparseActs, n: int) -> SparseActs:
    """Acts once for each judged vector: all sites of a crosscoder's row share one code."""
    sites = n // max(1, len(acts.values))
    if sites <= 1:
        return acts
    return SparseActs(acts.values.repeat_interleave(sites, 0), acts.indices.repeat_interleave(sites, 0))
