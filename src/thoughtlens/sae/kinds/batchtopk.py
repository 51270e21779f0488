"""BatchTopK: a batch keeps its k * batch largest pre-activations (Bussmann et al. 2024, arXiv:2412.06410)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import SAE, Batch, LossTerms, SparseActs
from thoughtlens.sae.kinds.config import BatchTopKConfig, SAEConfig
from thoughtlens.sae.kinds.topk import with_auxk


class BatchTopKSAE(SAE):
    """In training a batch keeps its k * batch largest positive pre-activations, however many fall on a row.

    Outside of training a row must not depend on its neighbours: `encode` keeps what is strictly above
    `threshold`, the running mean over training steps of the least positive activation kept.
    A new SAE has threshold 0, that is a ReLU.

    Loss, on normalised activations: mean squared error over rows and dimensions, plus
    `auxk * auxk_loss`.
    """

    kind = "batchtopk"
    cfg: BatchTopKConfig
    threshold: Tensor

    def __init__(self, cfg: SAEConfig, d_in: int, d_out: int | None = None):
        super().__init__(cfg, d_in, d_out)
        self.register_buffer("threshold", torch.zeros(()))

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Pre-activations strictly above the threshold."""
        return torch.where(pre_acts > self.threshold, pre_acts, 0)

    def train_acts(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """The batch's k * batch largest."""
        return kernels.batch_topk(pre_acts, self.cfg.k)

    def scale_thresholds(self, factor: Float[Tensor, ""]) -> None:
        """The threshold is in units of the activations."""
        self.threshold *= factor

    def loss(self, batch: Batch) -> LossTerms:
        """`reconstruction` and, while latents are dead, `auxk`."""
        z = self.normalize(batch.x, batch.cell)
        acts = kernels.encode_batchtopk(
            z, self.centre, self.W_enc, self.b_enc, self.cfg.k, self.compute_dtype
        )
        error, residual = kernels.acts_error(acts, self.W_dec, z, self.b_dec, self.compute_dtype)
        return with_auxk(self, {"reconstruction": error / residual.numel()}, z, residual, acts, batch=batch)

    @torch.no_grad()
    def after_step(self, batch: Batch, loss: LossTerms) -> None:
        """Bring the threshold up to date."""
        update_threshold(self.threshold, loss.acts, self.cfg.threshold_decay)


def update_threshold(
    threshold: Float[Tensor, ""],
    acts: Float[Tensor, "batch d_sae"] | SparseActs | kernels.RaggedActs,
    decay: float,
) -> None:
    """Move a running mean, in place, towards the least positive activation of a batch.

    The first batch sets it, since 0 stands for "none seen yet". A batch on which nothing fires is
    left out.
    """
    values = acts if isinstance(acts, Tensor) else acts.values
    least = torch.where(values > 0, values, torch.inf).min()
    first = threshold == 0
    moved = torch.where(first, least, threshold * decay + least * (1 - decay))
    threshold.copy_(torch.where(torch.isfinite(least), moved, threshold))
