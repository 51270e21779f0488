"""What one trained setting is worth on the rows of a split: the validate stage's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from thoughtlens.acts.behind import thought_model
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.evals.reconstruction.measure import Total, measure_sae
from thoughtlens.evals.reconstruction.splicer import Splicer
from thoughtlens.evals.reconstruction.subject import Subject
from thoughtlens.evals.validity.measure import Bench
from thoughtlens.evals.validity.splice import splice
from thoughtlens.sae.formats.io import load_members
from thoughtlens.studies.sweep.config import SweepConfig

DEFINITIONS = {
    "fvu, explained_variance, l0, dead_share": "as the validate stage has them, mean over a setting's SAEs",
    "fvu_within": "1 - explained_variance_within; null where all rows are of one (hook, thought)",
    "fidelity (text)": "ce_loss_score_mean of the validate stage: 1 costs the model nothing, 0 is as bad as "
    "the mean",
    "fidelity (thoughts)": "right answers / problems with every thought's states replaced by reconstructions",
    "dead_share": "share of latents that fire on none of the split's n vectors",
}


def measure(directory: Path, store: ActivationStore, split: str) -> dict[str, Any]:
    """Reconstruction and sparsity of the SAE(s) in a directory on one split."""
    rows = []
    for name, sae in load_members(directory).items():
        subject = Subject(store, name, sae, split)
        tally, firing = measure_sae(subject, Total(subject))
        row, sparsity = tally.row(), firing.summary()
        within = row["explained_variance_within"] if len(subject.cells) > 1 else None
        rows.append(
            {
                "fvu": row["fvu"],
                "explained_variance": row["explained_variance"],
                "fvu_within": None if within is None else 1 - within,
                "l0": sparsity["l0"],
                "dead_share": sparsity["dead_share"],
                "n": row["n"],
                "n_problems": int((tally.rows > 0).sum()),
                "d_in": sae.d_in,
                "d_sae": sae.d_sae,
            }
        )
    return {name: _over_members(name, [row[name] for row in rows]) for name in rows[0]}


def _over_members(name: str, values: list[Any]) -> Any:
    if name in ("n", "n_problems", "d_in", "d_sae"):
        return sum(values) if name == "n" else max(values)
    return None if None in values else float(np.mean(values))


class Fidelity:
    """What the model loses when its activations go through SAEs; the model is loaded once for all of them.

    Raises:
        MismatchError: the model that the store names is not the one it was extracted from.
    """

    def __init__(self, cfg: SweepConfig, store: ActivationStore, split: str) -> None:
        self.store, self.split = store, split
        self.splicer = self.bench = None
        if store.meta.kind == "text":
            self.splicer = Splicer(
                store, model=None, split=split, ce_tokens=cfg.ce_tokens, mean_rows=100_000, seed=cfg.seeds[0]
            )
        else:
            self.bench = _bench(store, split, cfg.n_problems, cfg.seeds[0])
            right, n = self.bench.counts["thoughts"]
            self.untouched = {"value": right / n, "n": n, "split": split}

    def of(self, directory: Path) -> dict[str, Any]:
        """`fidelity` and its `n_fidelity` of the SAE(s) in a directory."""
        if self.bench is not None:
            splice(self.bench, directory)
            right, n = self.bench.counts["spliced"]
            return {"fidelity": right / n, "n_fidelity": n}
        assert self.splicer is not None
        scores = []
        for name, sae in load_members(directory).items():
            rows, _ = self.splicer.rows(Subject(self.store, name, sae, self.split), {})
            scores += [row for row in rows or [] if row["arm"] == "sae"]
        known = [row["ce_loss_score_mean"] for row in scores if row["ce_loss_score_mean"] is not None]
        return {"fidelity": float(np.mean(known)) if known else None, "n_fidelity": scores[0]["n"]}


def _bench(store: ActivationStore, split: str, n: int, seed: int) -> Bench:
    """The store's thought model on problems of the split, thought about once without edits."""
    model = thought_model(store, remedy="extract again, or sweep without fidelity")
    table = store.problems.filter(pc.field("split") == split).slice(0, n)
    bench = Bench(model, table, seed=seed)
    bench.run([])
    return bench
