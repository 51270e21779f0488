"""p-annealing: a penalty that goes from L1 towards L0 during training (Karvonen et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import SAE, Batch, LossTerms
from thoughtlens.sae.kinds.config import PAnnealConfig, SAEConfig

SMOOTHING = 1e-3
"""Added to activations under the power: below it, the penalty's gradient stops growing."""


class PAnnealSAE(SAE):
    """`acts = relu(pre_acts)`, with `l1 * scale * sum_f acts ** p` added to the squared error.

    Karvonen et al. 2024, arXiv:2408.00113. p falls linearly; whenever it changes, `scale` is
    multiplied by `sum acts ** p_old / sum acts ** p_new` on the batch at hand, so that the penalty's
    strength does not jump. The paper changes p in a few steps and averages this ratio over a queue of
    batches; here p changes a little on every step.
    """

    kind = "p_anneal"
    revived_gain = 0.2
    cfg: PAnnealConfig
    p: Tensor
    scale: Tensor

    def __init__(self, cfg: SAEConfig, d_in: int, d_out: int | None = None):
        super().__init__(cfg, d_in, d_out)
        self.register_buffer("p", torch.ones(()))
        self.register_buffer("scale", torch.ones(()))

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """relu."""
        return pre_acts.relu()

    def loss(self, batch: Batch) -> LossTerms:
        """`reconstruction` and `lp`."""
        z = self.normalize(batch.x, batch.cell)
        acts, _, fired = kernels.encode_relu(z, self.centre, self.W_enc, self.b_enc, self.compute_dtype)
        error, _ = kernels.acts_error(acts, self.W_dec, z, self.b_dec, self.compute_dtype)
        return LossTerms(
            {
                "reconstruction": error / len(z),
                "lp": self.cfg.penalty_at(batch.progress) * self.scale * lp_penalty(acts, self.p, len(z)),
            },
            acts,
            fired,
            idle=fired == 0,
        )

    @torch.no_grad()
    def after_step(self, batch: Batch, loss: LossTerms) -> None:
        """Lower p to its place in the schedule and match the penalty's strength."""
        acts: Any = loss.acts
        p = torch.full_like(self.p, self.cfg.p_at(batch.progress))
        now, then = (lp_penalty(acts, power, len(batch.x)) for power in (self.p, p))
        if then > 0:
            self.scale *= now / then
        self.p.copy_(p)


def lp_penalty(
    acts: Float[Tensor, "batch d_sae"] | kernels.RaggedActs, p: Float[Tensor, ""], n_rows: int
) -> Float[Tensor, ""]:
    """Mean over rows of `sum_f (acts + s) ** p - s ** p` with s = 0.001; exactly the L1 norm at p = 1."""
    values = (acts.values if isinstance(acts, kernels.RaggedActs) else acts).to(p.dtype)
    return ((values + SMOOTHING) ** p - SMOOTHING**p).sum() / n_rows
