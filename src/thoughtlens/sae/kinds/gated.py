"""Gated SAE: whether a latent fires is decided apart from how much (Rajamanoharan et al. 2024a)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import SAE, Batch, LossTerms
from thoughtlens.sae.kinds.config import GatedConfig, SAEConfig


class GatedSAE(SAE):
    """`acts = 1[gate > 0] * relu(magnitude)` with tied weights (Rajamanoharan et al. 2024, arXiv:2404.16014).

    With `p = (z - b_dec) @ W_enc`: `gate = p + b_enc` (the paper's b_gate) and
    `magnitude = exp(r_mag) * p + b_mag`. Loss, squared errors and penalty summed over a
    row, on normalised activations: the reconstruction error, `l1` times relu(gate), and the error of
    what relu(gate) reconstructs through a frozen copy of the decoder, from which the gate learns.
    """

    kind = "gated"
    revived_gain = 0.2
    cfg: GatedConfig
    latent_axis: ClassVar[dict[str, int]] = {**SAE.latent_axis, "r_mag": 0, "b_mag": 0}

    def __init__(self, cfg: SAEConfig, d_in: int, d_out: int | None = None):
        super().__init__(cfg, d_in, d_out)
        self.r_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.d_sae))

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Magnitudes where the gate is open."""
        return torch.where(pre_acts > 0, self.magnitude(pre_acts).relu(), 0)

    def magnitude(self, gate: Float[Tensor, ...], latents: Any = slice(None)) -> Float[Tensor, ...]:
        """The other path's pre-activations; they share the gate's weights up to a scale per latent.

        Args:
            gate: Of all latents, `[batch, d_sae]`, or of some, one by one.
            latents: Which, where it is some.
        """
        return self.r_mag.exp()[latents] * (gate - self.b_enc[latents]) + self.b_mag[latents]

    def loss(self, batch: Batch) -> LossTerms:
        """`reconstruction`, `l1` and `gate`."""
        z = self.normalize(batch.x, batch.cell)
        gate, totals, opened = kernels.encode_relu(z, self.centre, self.W_enc, self.b_enc, self.compute_dtype)
        if isinstance(gate, kernels.RaggedActs):
            acts = replace(gate, values=self.magnitude(gate.values, gate.latents).relu())
        else:
            acts = self.activate(gate.to(self.W_enc.dtype))
        error, _ = kernels.acts_error(acts, self.W_dec, z, self.b_dec, self.compute_dtype)
        gate_error, _ = kernels.acts_error(
            gate, self.W_dec.detach(), z, self.b_dec.detach(), self.compute_dtype
        )
        return LossTerms(
            {
                "reconstruction": error / len(z),
                "l1": self.cfg.penalty_at(batch.progress) * totals.sum() / len(z),
                "gate": gate_error / len(z),
            },
            acts,
            idle=opened == 0,
        )

    @torch.no_grad()
    def revive(self, idx: Int[Tensor, " n"], pre_acts: Float[Tensor, " n"]) -> None:
        """Both paths alike, as at the start."""
        self.r_mag[idx] = 0
        self.b_mag[idx] = self.b_enc[idx]

    @torch.no_grad()
    def fold(self) -> None:
        """As for every SAE; the magnitude's bias follows in its own scale."""
        if self.normalization is not None and self.normalization.cells is None:
            mean, spread = self.normalization.mean[0], self.normalization.spread[0]
            self.b_mag *= spread
            if not self.cfg.pre_bias:
                self.b_mag -= self.r_mag.exp() * (mean @ self.W_enc)
        super().fold()
