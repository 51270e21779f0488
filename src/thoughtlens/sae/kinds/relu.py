"""ReLU + L1 (Bricken et al. 2023, Towards Monosemanticity; Cunningham et al. 2023, arXiv:2309.08600)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import SAE, Batch, LossTerms
from thoughtlens.sae.kinds.config import ReLUConfig


class ReLUSAE(SAE):
    """`acts = relu(pre_acts)`, with `l1 * sum_f acts` added to the squared error."""

    kind = "relu"
    revived_gain = 0.2
    cfg: ReLUConfig

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """relu."""
        return pre_acts.relu()

    def loss(self, batch: Batch) -> LossTerms:
        """`reconstruction` and `l1`."""
        cfg = self.cfg
        z = self.normalize(batch.x, batch.cell)
        acts, totals, fired = kernels.encode_relu(z, self.centre, self.W_enc, self.b_enc, self.compute_dtype)
        error, _ = kernels.acts_error(acts, self.W_dec, z, self.b_dec, self.compute_dtype)
        weighted = totals * self.W_dec.norm(dim=1) if cfg.penalty_by_decoder_norm else totals
        n = len(z) * (self.d_sae if cfg.penalty == "mean" else 1)
        return LossTerms(
            {
                "reconstruction": error / (z.numel() if cfg.reconstruction == "mean" else len(z)),
                "l1": cfg.penalty_at(batch.progress) * weighted.sum() / n,
            },
            acts,
            fired,
            idle=fired == 0,
        )
