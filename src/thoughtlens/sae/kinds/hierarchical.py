"""Hierarchical TopK: one dictionary for several k (Balagansky et al. 2025, arXiv:2505.24473)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import ConfigError
from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import Batch, LossTerms, SparseActs, counts
from thoughtlens.sae.kinds.batchtopk import BatchTopKSAE, update_threshold
from thoughtlens.sae.kinds.config import HierarchicalTopKConfig, SAEConfig
from thoughtlens.sae.kinds.topk import with_auxk

Acts = Float[Tensor, "batch d_sae"] | kernels.RaggedActs


class HierarchicalTopKSAE(BatchTopKSAE):
    """BatchTopK whose loss is the mean of the errors with several k, each with the batch's strongest latents.

    With `fade` the mean becomes the error with the config's k alone while it trains.

    The paper selects row by row; here the batch does, since rows differ in how many latents they need. The
    error at the least k keeps a latent from standing for two things at once, that at the largest pays for
    what these leave over. `encode` reads with `k`, or with any other of them. The auxiliary loss predicts
    what the k of the config leaves over, and a latent is dead that does not fire there.
    """

    kind = "hierarchical_topk"
    cfg: HierarchicalTopKConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    thresholds: Tensor
    """One for each number of latents; that of the config's k is `threshold`, too."""

    def __init__(self, cfg: SAEConfig, d_in: int, d_out: int | None = None):
        super().__init__(cfg, d_in, d_out)
        self.register_buffer("thresholds", torch.zeros(len(self.cfg.budgets)))

    def encode(
        self,
        x: Float[Tensor, "*batch d_in"],
        cell: Int[Tensor, "*batch"] | None = None,
        k: int | None = None,
    ) -> Float[Tensor, "*batch d_sae"]:
        """Activations of all latents, with `k` of them firing per row on average; None: the config's.

        Raises:
            ConfigError: a k that it was not trained with.
        """
        if k in (None, self.cfg.k):
            return super().encode(x, cell)
        if k not in self.cfg.budgets:
            known = ", ".join(map(str, self.cfg.budgets))
            raise ConfigError(f"k: expected one of {known}, with which this SAE was trained, got {k}")
        z = self.normalize(x, cell).reshape(-1, self.d_in)
        pre_acts, threshold = self.pre_acts(z), self.thresholds[self.cfg.budgets.index(k)]
        return torch.where(pre_acts > threshold, pre_acts, 0).reshape(*x.shape[:-1], self.d_sae)

    def scale_thresholds(self, factor: Float[Tensor, ""]) -> None:
        """All of them are in units of the activations."""
        super().scale_thresholds(factor)
        self.thresholds *= factor

    def loss(self, batch: Batch) -> LossTerms:
        """`reconstruction_<k>` for each k and, while latents are dead, `auxk`."""
        z, ks = self.normalize(batch.x, batch.cell), self.cfg.budgets
        acts = kernels.encode_batchtopk(z, self.centre, self.W_enc, self.b_enc, ks[-1], self.compute_dtype)
        terms, own, left = {}, acts, z
        weights = self.cfg.weights_at(batch.progress)
        for k, weight, part in zip(ks, weights, self._nested(acts, len(z)), strict=True):
            error, residual = kernels.acts_error(part, self.W_dec, z, self.b_dec, self.compute_dtype)
            terms[f"reconstruction_{k}"] = weight * error / residual.numel()
            if k == self.cfg.k:
                own, left = part, residual
        found = with_auxk(self, terms, z, left, acts, batch=batch)
        return replace(found, fired=counts(own, self.d_sae))

    @torch.no_grad()
    def after_step(self, batch: Batch, loss: LossTerms) -> None:
        """Bring the thresholds up to date."""
        assert not isinstance(loss.acts, SparseActs)
        for threshold, part in zip(self.thresholds, self._nested(loss.acts, len(batch.x)), strict=True):
            update_threshold(threshold, part, self.cfg.threshold_decay)
        self.threshold.copy_(self.thresholds[self.cfg.budgets.index(self.cfg.k)])

    def _nested(self, acts: Acts, n_rows: int) -> Iterator[Acts]:
        """The strongest of a batch's activations for each k, the others 0."""
        values = acts if isinstance(acts, Tensor) else acts.values
        for k in self.cfg.budgets:
            kept = values
            if (n := k * n_rows) < values.numel():
                least = values.detach().flatten().topk(n, sorted=False).values.min()
                kept = torch.where(values >= least, values, 0)
            yield kept if isinstance(acts, Tensor) else replace(acts, values=kept)
