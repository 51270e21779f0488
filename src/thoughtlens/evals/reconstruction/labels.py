"""How much the labels of a supervised SAE bought, on held-out rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from thoughtlens.core import DataError
from thoughtlens.evals.heldout.subject import Batch, Subject
from thoughtlens.evals.reconstruction.records import LabelScore
from thoughtlens.numerics import FVU, proportion
from thoughtlens.sae import SupervisedSAE, encode_labels

DEFINITIONS = {
    "labels.accuracy": "share of labelled vectors whose class has the largest logit of the column's tied "
    "latents; low, high over groups of problems",
    "labels.majority": "share of the most frequent class among them",
    "labels.fvu_free": "fvu with the tied latents held at their mean over these rows: fvu_free - fvu is "
    "what they carry",
}


@torch.no_grad()
def labels_on(subject: Subject) -> list[LabelScore]:
    """One line per label column; the numbers of `sae.labels_bought`, in a stream, with intervals.

    Raises:
        DataError: a column of which no held-out row has a label.
    """
    sae = subject.sae
    assert isinstance(sae, SupervisedSAE)
    _, codes = encode_labels(
        subject.store.problems.to_pydict(), sae.cfg.label_columns, sae.cfg.label_classes
    )  # fmt: skip
    fvu, fvu_free = _errors(subject, sae, _tied_mean(subject, sae))
    problems, hits = _hits(subject, sae, codes)
    lines = []
    for column, name in enumerate(sae.cfg.label_columns):
        truth = codes[problems, column].numpy()
        known = truth >= 0
        if not known.any():
            raise DataError(f"Expected labelled rows to judge {name!r} by, all {len(truth)} are unlabelled")
        found = proportion(hits[known, column], subject.store.group_idx[problems[known]])
        lines.append(
            LabelScore(
                column=name,
                n=int(known.sum()),
                n_problems=len(np.unique(problems[known])),
                accuracy=found.estimate,
                low=None if found.n < 2 else found.low,
                high=None if found.n < 2 else found.high,
                majority=float(np.bincount(truth[known]).max() / int(known.sum())),
                fvu=fvu,
                fvu_free=fvu_free,
            )
        )
    return lines


def _rows(subject: Subject, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The batch's rows that are not flagged, and their cells as the SAE counts them."""
    kept = torch.from_numpy(batch.kept).to(batch.x.device)
    return batch.x[kept], subject.sae.cell_index(subject.cells, batch.cell[batch.kept])


def _tied_mean(subject: Subject, sae: SupervisedSAE) -> Tensor:
    total, n = torch.zeros(sae.cfg.n_tied, dtype=torch.float64), 0
    for batch in subject.batches():
        x, cell = _rows(subject, batch)
        total += sae.encode(x, cell)[:, : sae.cfg.n_tied].double().sum(0).cpu()
        n += len(x)
    return total / max(1, n)


def _errors(subject: Subject, sae: SupervisedSAE, mean: Tensor) -> tuple[float, float]:
    """FVU of the whole SAE, and with its tied latents held at their mean."""
    whole, free = FVU(), FVU()
    for batch in subject.batches():
        x, cell = _rows(subject, batch)
        acts = sae.encode(x, cell)
        whole.update(x, sae.decode(acts, cell))
        acts[:, : sae.cfg.n_tied] = mean.to(acts)
        free.update(x, sae.decode(acts, cell))
    return whole.compute(), free.compute()


def _hits(subject: Subject, sae: SupervisedSAE, codes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Problem of every row, and whether each column's largest logit is its class."""
    problems, hits = [], []
    for batch in subject.batches():
        problem = batch.problem[batch.kept]
        found = [logits.argmax(1).cpu() for logits in sae.logits(*_rows(subject, batch))]
        problems.append(problem)
        hits.append((torch.stack(found, 1) == codes[torch.from_numpy(problem).long()]).numpy())
    return np.concatenate(problems), np.concatenate(hits)
