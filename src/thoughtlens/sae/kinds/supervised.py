"""Supervised SAE: some latents are tied to labels, the rest is a TopK SAE."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.core import ConfigError, DataError, MismatchError
from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import SAE, Batch, LossTerms, SparseActs
from thoughtlens.sae.kinds.config import SupervisedConfig, TopKConfig, require_classes, require_columns
from thoughtlens.sae.kinds.topk import TopKSAE, auxk_term


class SupervisedSAE(SAE):
    """The first `n_tied` latents stand for classes and always may fire; of the others, k fire.

    A tied latent's pre-activation is the logit of its class, so that it fires exactly where its class is
    more likely than not. What it reads is learned from the labels alone, what it writes from the
    reconstruction alone: otherwise, being outside the competition for k, it would become a channel for
    everything. For the same reason its decoder row has no fixed length.

    Loss, on normalised activations: mean squared error over rows and dimensions, `auxk * auxk_loss` over
    the free latents, and `label` times the binary cross-entropy of the tied latents in nats, mean over
    the classes of a column, its labelled rows, and the columns. Rows with label -1 count as unlabelled.
    """

    kind = "supervised"
    cfg: SupervisedConfig

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """relu on tied latents, top k of the free ones."""
        n = self.cfg.n_tied
        free = SparseActs(*kernels.topk(pre_acts[:, n:], self.cfg.k)).to_dense(self.d_sae - n)
        return torch.cat([pre_acts[:, :n].relu(), free], dim=1)

    def logits(
        self, x: Float[Tensor, "n d_in"], cell: Int[Tensor, " n"] | None = None
    ) -> list[Float[Tensor, "n n_classes"]]:
        """Per label column, the tied latents' pre-activations."""
        tied = self.pre_acts(self.normalize(x, cell))[:, : self.cfg.n_tied]
        return list(tied.split([len(classes) for classes in self.cfg.label_classes], dim=1))

    def loss(self, batch: Batch) -> LossTerms:
        """`reconstruction`, `label` and, while latents are dead, `auxk`."""
        if batch.labels is None:
            raise MismatchError(
                f"A supervised SAE trains on labels of {', '.join(self.cfg.label_columns)}: expected "
                f"Batch.labels, got None"
            )
        z = self.normalize(batch.x, batch.cell)
        pre_acts = self.pre_acts(z)
        acts = self.activate(pre_acts)
        n = self.cfg.n_tied
        written = torch.cat([acts[:, :n].detach(), acts[:, n:]], dim=1)
        residual = z - kernels.linear(written, self.W_dec, self.b_dec, self.compute_dtype)
        terms = {
            "reconstruction": residual.square().mean(),
            "label": self.cfg.label * self._label_loss(pre_acts, batch.labels),
        }
        if batch.dead is not None:
            dead = self.revivable(batch.dead)
            terms |= auxk_term(self.cfg, residual, pre_acts, self.W_dec, replace(batch, dead=dead))
        return LossTerms(terms, acts)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """As for every SAE; tied latents start by writing nothing."""
        super().reset_parameters(generator)
        self.W_dec[: self.cfg.n_tied] = 0

    @property
    def unit_from(self) -> int | None:
        """Tied latents write as much as they need."""
        return None if super().unit_from is None else self.cfg.n_tied

    def revivable(self, dead: Bool[Tensor, " d_sae"]) -> Bool[Tensor, " d_sae"]:
        """All but the tied ones."""
        dead = dead.clone()
        dead[: self.cfg.n_tied] = False
        return dead

    def _label_loss(self, pre_acts: Tensor, labels: Int[Tensor, "batch n_columns"]) -> Float[Tensor, ""]:
        losses, start = [], 0
        for column, classes in enumerate(self.cfg.label_classes):
            logits = pre_acts[:, start : start + len(classes)]
            start += len(classes)
            known = labels[:, column] >= 0
            target = F.one_hot(labels[known, column], len(classes)).to(logits.dtype)
            total = F.binary_cross_entropy_with_logits(logits[known], target, reduction="sum")
            losses.append(total / max(1, target.numel()))
        return torch.stack(losses).mean()

    def free_part(self) -> TopKSAE:
        """The SAE without its tied latents, which is a TopK SAE."""
        n = self.cfg.n_tied
        shared = {name: getattr(self.cfg, name) for name in TopKConfig.model_fields if name != "kind"}
        part = TopKSAE(TopKConfig(**{**shared, "d_sae": self.d_sae - n}), self.d_in, self.d_out)
        part.to(self.W_enc)
        with torch.no_grad():
            part.W_enc.copy_(self.W_enc[:, n:])
            part.b_enc.copy_(self.b_enc[n:])
            part.W_dec.copy_(self.W_dec[n:])
            part.b_dec.copy_(self.b_dec)
        part.normalization = copy.deepcopy(self.normalization)
        part.hook_names, part.provenance = list(self.hook_names), copy.deepcopy(self.provenance)
        return part.train(self.training)


def encode_labels(
    table: Mapping[str, Sequence[Any]],
    columns: Sequence[str],
    classes: Sequence[Sequence[str]] | None = None,
) -> tuple[tuple[tuple[str, ...], ...], Int[Tensor, "n n_columns"]]:
    """Classes of label columns, and every row's class in each (-1 where the label is None).

    Args:
        table: Values of every column there is.
        columns: The label columns.
        classes: The classes of each column, where they are known already; other values become -1.

    Raises:
        ConfigError: no column, one that is given twice or is not there, or one with fewer than 2 or more
            than 64 different values.
    """
    require_columns(columns)
    kept, codes = [], []
    for i, column in enumerate(columns):
        if column not in table:
            raise ConfigError(
                f"sae.label_columns: expected columns among {', '.join(table) or 'none'}, got {column!r}"
            )
        values = [None if v is None else str(v) for v in table[column]]
        found = sorted({v for v in values if v is not None}) if classes is None else list(classes[i])
        require_classes(column, len(found))
        number = {v: code for code, v in enumerate(found)}
        kept.append(tuple(found))
        codes.append(torch.tensor([-1 if v is None else number.get(v, -1) for v in values]))
    return tuple(kept), torch.stack(codes, dim=1)


@torch.no_grad()
def labels_bought(
    sae: SupervisedSAE,
    x: Float[Tensor, "n d_in"],
    labels: Int[Tensor, "n n_columns"],
    cell: Int[Tensor, " n"] | None = None,
) -> list[dict[str, Any]]:
    """What the tied latents know and what they carry, on held-out rows; one line a label column.

    `accuracy`: share of labelled rows whose class has the column's largest logit; `majority`: share of
    their most frequent class. `fvu`: error of the whole SAE over the rows' variance; `fvu_free`: the
    same with the tied latents held at their mean over the rows. The SAE trained with `label = 0` is
    the control.
    """
    acts = sae.encode(x, cell)
    free = acts.clone()
    free[:, : sae.cfg.n_tied] = acts[:, : sae.cfg.n_tied].mean(0)
    variance = (x.double() - x.double().mean(0)).square().sum()
    fvu, fvu_free = (
        ((x - sae.decode(a, cell)).double().square().sum() / variance).item() for a in (acts, free)
    )
    lines = []
    for column, (name, logits) in enumerate(zip(sae.cfg.label_columns, sae.logits(x, cell), strict=True)):
        known = labels[:, column] >= 0
        truth, n = labels[known, column], int(known.sum())
        if n == 0:
            raise DataError(f"Expected labelled rows to judge {name!r} by, all {len(x)} are unlabelled")
        lines.append(
            {
                "column": name,
                "n": n,
                "accuracy": (logits[known].argmax(1) == truth).double().mean().item(),
                "majority": torch.bincount(truth).max().item() / n,
                "fvu": fvu,
                "fvu_free": fvu_free,
            }
        )
    return lines
