"""The auxiliary loss as a part of other objectives: its settings and its term."""

from __future__ import annotations

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from thoughtlens.sae.base import Batch, SAEConfig
from thoughtlens.sae.kinds.topk import auxk_loss


class AuxKConfig(SAEConfig):
    """Settings of the auxiliary loss that brings dead latents back."""

    auxk: float = Field(default=1 / 32, ge=0)
    """Coefficient of the auxiliary loss; 0 switches it off."""
    k_aux: int | None = Field(default=None, ge=1)
    """Dead latents that predict each row's residual; unset: half its width."""


def auxk_term(
    cfg: AuxKConfig,
    residual: Float[Tensor, "batch d_out"],
    pre_acts: Float[Tensor, "batch d_sae"],
    W_dec: Float[Tensor, "d_sae d_out"],
    batch: Batch,
) -> dict[str, Float[Tensor, ""]]:
    """`{"auxk": coefficient * auxk_loss}`; empty where it is off or nobody keeps count of the dead."""
    if cfg.auxk == 0 or batch.dead is None:
        return {}
    k_aux = cfg.k_aux or max(1, residual.shape[1] // 2)
    return {"auxk": cfg.auxk * auxk_loss(residual, pre_acts, W_dec, batch.dead, k_aux)}
