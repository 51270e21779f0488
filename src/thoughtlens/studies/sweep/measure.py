"""What one trained setting is worth on the rows of a split: the validate stage's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from thoughtlens.acts import ActivationStore, made_with, thought_model
from thoughtlens.core import Number
from thoughtlens.evals import CellSpread, Splicer, Subject, Total, describe, firings, flat_cells, measure_sae
from thoughtlens.interventions import Bench, splice
from thoughtlens.numerics import found_again
from thoughtlens.sae import load_members
from thoughtlens.studies.sweep.config import SweepConfig
from thoughtlens.studies.sweep.records import Held, Stability

DEFINITIONS = {
    "fvu, explained_variance, l0, dead_share": "as the validate stage has them, mean over a setting's SAEs "
    "but those of cells that hardly vary",
    "fvu_within": "1 - explained_variance_within; null where all rows are of one (hook, thought)",
    "fidelity (text)": "ce_loss_score_mean of the validate stage: 1 costs the model nothing, 0 is as bad as "
    "the mean",
    "fidelity (thoughts)": "right answers / problems with every thought's states replaced by reconstructions",
    "description": "bits a row, the sum of: bits_which = sum over latents of the entropy of whether they "
    "fire; bits_values = sum over latents of density x rate of the variance of what they write; "
    "bits_residual = sum over the principal axes of x - x_hat of the rate of its second moment; rate(v) = "
    "max(0, log2(v / precision) / 2), rows in units of the standard deviation in their (hook, thought) cell; "
    "the dictionary itself is not counted",
    "found_again": "share of a seed's live latents for which another seed has a live latent with a decoder "
    "row of cosine at least 0.9; mean over ordered pairs of seeds; by_firings: each counts as often as it "
    "fires",
    "bits_without": "the same rows, centred in their cells, with no dictionary",
    "dead_share": "share of latents that fire on none of the split's n vectors",
}
DESCRIBED = ("description", "bits_which", "bits_values", "bits_residual", "bits_without")


def measure(directory: Path, store: ActivationStore, split: str, precision: float = 0.3) -> Held:
    """Reconstruction, sparsity and description length of the SAE(s) in a directory on one split."""
    found = [
        _one(Subject(store, name, sae, split), precision) for name, sae in load_members(directory).items()
    ]
    flat = set(flat_cells([cell for _, cells in found for cell in cells]))
    varying = [row for row, cells in found if {(c.hook_name, c.thought_idx) for c in cells} - flat]
    rows = varying or [row for row, _ in found]
    return Held(
        fvu=_mean([row.fvu for row in rows]),
        fvu_within=_mean([row.fvu_within for row in rows]),
        explained_variance=_mean([row.explained_variance for row in rows]),
        l0=_mean([row.l0 for row in rows]),
        dead_share=_mean([row.dead_share for row in rows]),
        **{name: _mean([getattr(row, name) for row in rows]) for name in DESCRIBED},
        n=sum(row.n for row in rows),
        n_problems=max(row.n_problems for row in rows),
        d_in=max(row.d_in for row in rows),
        d_sae=max(row.d_sae for row in rows),
    )


def _one(subject: Subject, precision: float) -> tuple[Held, list[CellSpread]]:
    tally, firing = measure_sae(subject, Total(subject))
    row, sparsity, spreads = tally.over(), firing.sparsity(), tally.spreads()
    bits = describe(subject, spreads, precision)
    within = row.explained_variance_within if len(subject.cells) > 1 else None
    held = Held(
        fvu=row.fvu,
        fvu_within=None if within is None else 1 - within,
        explained_variance=row.explained_variance,
        l0=sparsity.l0,
        dead_share=sparsity.dead_share,
        **({} if bits is None else dict(zip(DESCRIBED, bits, strict=True))),
        n=row.n,
        n_problems=int((tally.rows > 0).sum()),
        d_in=subject.sae.d_in,
        d_sae=subject.sae.d_sae,
    )
    return held, spreads


def stability(directories: Sequence[Path], store: ActivationStore, split: str) -> Stability:
    """How much of their dictionaries trainings with different seeds find again; members count alike."""
    seeds, shares, weighted = [load_members(directory) for directory in directories], [], []
    for name in seeds[0]:
        subjects = [Subject(store, name, members[name], split) for members in seeds]
        fires = [firings(subject) for subject in subjects]
        rows = [s.sae.W_dec.detach()[torch.from_numpy(f > 0)] for s, f in zip(subjects, fires, strict=True)]
        for i, j in permutations(range(len(seeds)), 2):
            again, own = found_again(rows[i], rows[j]), fires[i][fires[i] > 0]
            shares.append(float(again.mean()) if len(again) else 0.0)
            weighted.append(float(own[again].sum() / max(own.sum(), 1)))
    return Stability(
        found_again=float(np.mean(shares)), found_again_by_firings=float(np.mean(weighted)),
        n_pairs=len(shares),
    )  # fmt: skip


def _mean(values: list[Any]) -> Any:
    """None where one of them has no value."""
    return None if None in values else float(np.mean(values))


class Fidelity:
    """What the model loses when its activations go through SAEs; the model is loaded once for all of them.

    Raises:
        MismatchError: the model that the store names is not the one it was extracted from.
    """

    def __init__(self, cfg: SweepConfig, store: ActivationStore, split: str) -> None:
        self.store, self.split = store, split
        self.splicer = self.bench = self.untouched = None
        if store.meta.kind == "text":
            self.splicer = Splicer(
                store, model=None, split=split, ce_tokens=cfg.ce_tokens, mean_rows=100_000, seed=cfg.seeds[0]
            )
        else:
            self.bench = _bench(store, split, cfg.n_problems, cfg.seeds[0])
            right, n = self.bench.counts["thoughts"]
            self.untouched = Number(value=right / n, n=n, split=split)

    def of(self, directory: Path) -> tuple[float | None, int]:
        """Fidelity of the SAE(s) in a directory, and how many problems or tokens are behind it."""
        if self.bench is not None:
            splice(self.bench, directory)
            right, n = self.bench.counts["spliced"]
            return right / n, n
        assert self.splicer is not None
        scores = []
        for name, sae in load_members(directory).items():
            rows, _ = self.splicer.rows(Subject(self.store, name, sae, self.split), {})
            scores += [row for row in rows or [] if row.arm == "sae"]
        known = [row.ce_loss_score_mean for row in scores if row.ce_loss_score_mean is not None]
        return _mean(known) if known else None, scores[0].n


def _bench(store: ActivationStore, split: str, n: int, seed: int) -> Bench:
    """The store's thought model on problems of the split, thought about once without edits."""
    model = thought_model(store, remedy="extract again, or sweep without fidelity")
    table = store.problems.filter(pc.field("split") == split).slice(0, n)
    bench = Bench(model, table, seed=seed, max_new_tokens=made_with(store).max_new_tokens)
    bench.run([])
    return bench
