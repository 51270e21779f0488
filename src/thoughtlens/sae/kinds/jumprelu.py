"""JumpReLU: every latent has its own threshold (Rajamanoharan et al. 2024b, arXiv:2407.14435)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import MEDIAN_ROWS, SAE, Batch, LossTerms, counts
from thoughtlens.sae.kinds.config import JumpReLUConfig, SAEConfig
from thoughtlens.sae.kinds.normalization import Cell
from thoughtlens.sae.kinds.topk import auxk_term


class JumpReLUSAE(SAE):
    """`acts = pre_acts * 1[pre_acts > threshold]`, with a threshold per latent, in float32.

    Neither the jump nor the count has a useful derivative in the threshold; both get the paper's
    straight-through one (`JumpReLU`, `Step`). Thresholds are parameters themselves, not logarithms:
    Adam moves a parameter by about lr a step, which from log(0.001) would never arrive. They live in
    units of the activations, hence their larger learning rate.

    Loss, on normalised activations: mean squared error over rows and dimensions, the penalty, and
    `auxk * auxk_loss`. With penalty = "target" and gap = l0 / target_l0 - 1, the penalty is
    `coefficient * gap^2`. A penalty alone ends where it balances the error, so after each step all
    thresholds are multiplied by `1 + control * gap` (the gap cut to at most 1): together they hold the
    target, and what each learns is its place among the others.
    """

    kind = "jumprelu"
    cfg: JumpReLUConfig
    latent_axis: ClassVar[dict[str, int]] = {**SAE.latent_axis, "threshold": 0}
    lr_factor: ClassVar[dict[str, float]] = {"threshold": 10.0}

    def __init__(self, cfg: SAEConfig, d_in: int, d_out: int | None = None):
        super().__init__(cfg, d_in, d_out)
        start = 0.1 if self.cfg.threshold_init is None else self.cfg.threshold_init
        self.threshold = nn.Parameter(torch.full((self.d_sae,), start))

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Pre-activations strictly above their latent's threshold."""
        return JumpReLU.apply(pre_acts, self.threshold, self.cfg.bandwidth)

    def scale_thresholds(self, factor: Float[Tensor, ""]) -> None:
        """Thresholds are in units of the activations."""
        self.threshold *= factor

    @torch.no_grad()
    def initialize(
        self,
        x: Float[Tensor, "n d_in"],
        cell: Int[Tensor, " n"] | None = None,
        cells: Sequence[Cell] = (),
        y: Tensor | None = None,
    ) -> None:
        """As for every SAE; where the config leaves it open, thresholds that hit the target at once."""
        super().initialize(x, cell, cells, y)
        cfg = self.cfg
        if cfg.penalty == "target" and cfg.threshold_init is None and cfg.init == "data":
            head = slice(0, MEDIAN_ROWS)
            z = self.normalize(x[head], None if cell is None else cell[head])
            pre_acts = self.pre_acts(z)
            n_kept = max(1, round(cfg.target_l0 * len(pre_acts)))
            self.threshold.fill_(pre_acts.flatten().topk(n_kept).values.min().clamp_min(0))
            self.threshold *= self.fit_gain(z)

    def loss(self, batch: Batch) -> LossTerms:
        """`reconstruction`, `sparsity` and, where they apply, `auxk` and `pre_act`."""
        cfg = self.cfg
        z = self.normalize(batch.x, batch.cell)
        pre_acts = self.pre_acts(z)
        acts = self.activate(pre_acts)
        residual = z - kernels.linear(acts, self.W_dec, self.b_dec, self.compute_dtype)
        terms = {"reconstruction": residual.square().mean(), "sparsity": self._penalty(pre_acts, acts)}
        terms |= auxk_term(cfg, residual, pre_acts, self.W_dec, batch)
        if cfg.pre_act > 0 and batch.dead is not None:
            short = (self.threshold - pre_acts).relu() * self.W_dec.norm(dim=1)
            terms["pre_act"] = cfg.pre_act * (short * batch.dead).sum(-1).mean()
        return LossTerms(terms, acts)

    @torch.no_grad()
    def revive(self, idx: Int[Tensor, " n"], pre_acts: Float[Tensor, " n"]) -> None:
        """Thresholds low enough for the latents to fire on the rows they were made from."""
        self.threshold[idx] = torch.minimum(self.threshold[idx], pre_acts.clamp_min(0) / 2)

    @torch.no_grad()
    def after_step(self, batch: Batch, loss: LossTerms) -> None:
        """Keep thresholds from falling below 0 and move them together towards the target."""
        self.threshold.clamp_(min=0)
        if self.cfg.penalty == "target":
            gap = counts(loss.acts, self.d_sae).sum() / len(batch.x) / self.cfg.target_l0 - 1
            self.threshold *= 1 + self.cfg.control * gap.clamp(max=1)

    def _penalty(self, pre_acts: Tensor, acts: Tensor) -> Float[Tensor, ""]:
        cfg = self.cfg
        weight = cfg.coefficient if cfg.coefficient is not None else 1.0 if cfg.penalty == "target" else 1e-3
        if cfg.penalty == "tanh":
            return weight * (cfg.tanh_scale * acts * self.W_dec.norm(dim=1)).tanh().sum(-1).mean()
        l0 = Step.apply(pre_acts, self.threshold, cfg.bandwidth).sum(-1).mean()
        if cfg.penalty == "l0":
            return weight * l0
        gap = l0 / cfg.target_l0 - 1
        return weight * gap.square()


class JumpReLU(torch.autograd.Function):
    """`z * 1[z > threshold]`.

    Derivative in z: exact, `1[z > threshold]`. Derivative in the threshold, the paper's
    pseudo-derivative: `-threshold / bandwidth` where `|z - threshold| < bandwidth / 2`, else 0.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        """acts."""
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(z > threshold, z, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        """Gradients in z and the threshold."""
        z, threshold = ctx.saved_tensors
        near = (z - threshold).abs() < ctx.bandwidth / 2
        slope = -(threshold / ctx.bandwidth) * torch.where(near, grad, 0).sum(0)
        return torch.where(z > threshold, grad, 0), slope, None


class Step(torch.autograd.Function):
    """`1[z > threshold]`.

    Derivative in z: 0. Derivative in the threshold, the paper's pseudo-derivative:
    `-1 / bandwidth` where `|z - threshold| < bandwidth / 2`, else 0.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        """1 or 0, in the dtype of z."""
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        """Gradient in the threshold."""
        z, threshold = ctx.saved_tensors
        near = (z - threshold).abs() < ctx.bandwidth / 2
        return None, -torch.where(near, grad, 0).sum(0) / ctx.bandwidth, None
