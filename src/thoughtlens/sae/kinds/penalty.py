"""The L1 coefficient that several kinds share: what it is where none is given, and how it warms up."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from thoughtlens.sae.base import SAEConfig

EXPONENT = 0.75
"""How the default coefficient grows with the width. With 1/2, a code that is as sparse weighs as much against
its error; but wider rows of real models hold more directions, and then L0 grows like the width. With 1, L0
stayed and latents began to die (docs/log.md, "penalties that follow the width")."""


class PenaltyConfig(SAEConfig):
    """Settings of a penalty on activations, beside a squared error."""

    l1_scale: ClassVar[float] = 0.026
    """The coefficient where none is given, over d_in^(3/4)."""
    l1: float | None = Field(default=None, ge=0)
    """Coefficient of the sparsity penalty. Unset: c * d_in^(3/4), with c 0.026 for relu and crosscoders,
    0.04 for gated and 0.016 for p_anneal: for a squared error summed over dimensions and a penalty summed
    over latents, of normalised activations. Averaged instead (relu): 1 / d_in and d_sae times as much."""
    l1_warmup: float = Field(default=0.3, ge=0, le=1)
    """Share of the training over which the coefficient rises linearly from 0."""

    def for_width(self, d_in: int) -> PenaltyConfig:
        """With the coefficient decided."""
        if self.l1 is not None or not self.penalised:
            return self
        return self.model_copy(update={"l1": self.l1_scale * d_in**EXPONENT * self.unit(d_in)})

    @property
    def penalised(self) -> bool:
        """Whether the coefficient is in use."""
        return True

    def unit(self, d_in: int) -> float:
        """What the default is multiplied by where the loss averages instead of summing."""
        return 1.0

    def penalty_at(self, progress: float) -> float:
        """The coefficient at a share of the training."""
        assert self.l1 is not None, "an SAE's config is for its width"
        return self.l1 * (min(1.0, progress / self.l1_warmup) if self.l1_warmup > 0 else 1.0)

    def warnings(self, d_in: int) -> list[str]:
        """The default means nothing in raw units."""
        if self.l1 is not None or not self.penalised or self.normalization not in ("none", "mean"):
            return super().warnings(d_in)
        return [
            *super().warnings(d_in),
            f"sae.l1 is unset and sae.normalization = {self.normalization!r}: its default, "
            f"{self.for_width(d_in).l1:.4g}, is for normalised activations and these are not; set sae.l1",
        ]
