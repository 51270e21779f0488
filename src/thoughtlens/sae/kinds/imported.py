"""SAEs of other libraries whose rule or norm no trainable kind here has: kept and run, never trained."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thoughtlens.core import MismatchError
from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import SAE, Batch, LossTerms, SparseActs
from thoughtlens.sae.kinds.config import ImportedConfig, SAEConfig

LN_EPS = 1e-5


class ImportedSAE(SAE):
    """`acts = rule(norm(x) [- b_dec] @ W_enc + b_enc)`, `x_hat = norm^-1(acts @ W_dec + b_dec)`.

    A skip adds `x @ W_skip`. With it or `input_norm`, decoding needs the input too. Beside the four
    tensors of every SAE, jumprelu has `threshold [d_sae]`, gated `r_mag` and `b_mag` (`GatedSAE`), a
    skip `W_skip [d_in, d_out]`.
    """

    kind = "imported"
    cfg: ImportedConfig
    threshold: Tensor
    r_mag: Tensor
    b_mag: Tensor
    latent_axis: ClassVar[dict[str, int]] = {**SAE.latent_axis, "threshold": 0, "r_mag": 0, "b_mag": 0}

    def __init__(self, cfg: SAEConfig, d_in: int, d_out: int | None = None):
        super().__init__(cfg, d_in, d_out)
        self.reconstructs = not self.cfg.transcoder  # type: ignore[misc]
        names = {"jumprelu": ("threshold",), "gated": ("r_mag", "b_mag")}.get(self.cfg.rule, ())
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.zeros(self.d_sae)))
        self.W_skip = nn.Parameter(torch.zeros(self.d_in, self.d_out)) if self.cfg.skip else None

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """The rule, but for matching pursuit, which has no pre-activations."""
        rule, k = self.cfg.rule, self.cfg.k or 1
        if rule == "relu":
            return pre_acts.relu()
        if rule == "jumprelu":
            return pre_acts.relu() * (pre_acts > self.threshold)
        if rule == "gated":
            magnitude = self.r_mag.exp() * (pre_acts - self.b_enc) + self.b_mag
            return torch.where(pre_acts > 0, magnitude.relu(), 0)
        if rule == "identity":
            return pre_acts
        if rule == "groupmax":
            groups = pre_acts.relu().unflatten(1, (k, -1))
            best = groups.max(-1, keepdim=True)
            return torch.zeros_like(groups).scatter(-1, best.indices, best.values).flatten(1)
        kept = (pre_acts.abs() if rule == "abstopk" else pre_acts).topk(k, dim=1).indices
        values = pre_acts.relu() if rule == "topk" else pre_acts
        return torch.zeros_like(values).scatter(1, kept, values.gather(1, kept))

    def encode(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """Activations of all latents."""
        if self.cfg.rule != "pursuit":
            return super().encode(x, cell)
        z = self.normalize(x, cell).reshape(-1, self.d_in)
        return self._pursue(self.centred(z)).unflatten(0, x.shape[:-1])

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> SparseActs:
        """Activations of the latents that fire, of either sign, padded to the row where most do."""
        acts = self.encode(x, cell)
        k = max(1, int((acts != 0).sum(-1).max())) if acts.numel() else 1
        indices = acts.abs().topk(k, dim=-1).indices
        return SparseActs(acts.gather(-1, indices), indices)

    def decode(
        self,
        acts: Float[Tensor, "*batch d_sae"],
        cell: Int[Tensor, "*batch"] | None = None,
        x: Float[Tensor, "*batch d_in"] | None = None,
    ) -> Float[Tensor, "*batch d_out"]:
        """Raw reconstruction; with `input_norm` or `skip` it also needs the input.

        Raises:
            MismatchError: the input is needed, and there is no `x`.
        """
        return self._finish(kernels.decode_dense(self.code(acts), self.W_dec) + self.b_dec, x)

    def decode_sparse(
        self,
        acts: SparseActs,
        cell: Int[Tensor, "*batch"] | None = None,
        x: Float[Tensor, "*batch d_in"] | None = None,
    ) -> Float[Tensor, "*batch d_out"]:
        """`decode` that reads only the rows of W_dec in use."""
        acts = self.sparse_code(acts)
        k = acts.values.shape[-1]
        z_hat = kernels.decode(acts.values.reshape(-1, k), acts.indices.reshape(-1, k), self.W_dec)
        return self._finish((z_hat + self.b_dec).reshape(*acts.values.shape[:-1], self.d_out), x)

    def forward(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """x_hat."""
        return self.decode(self.encode(x, cell), cell, x)

    def normalize(self, x: Tensor, cell: Tensor | None = None) -> Tensor:
        """Rows in the units of the weights."""
        x = super().normalize(x, cell)
        mean, scale = self._units(x)
        return x if mean is None else (x - mean) / scale[0]

    def loss(self, batch: Batch) -> LossTerms:
        """Refused: how it was trained is another library's business.

        Raises:
            MismatchError: always.
        """
        raise MismatchError(f"An imported SAE ({self.cfg.rule}) cannot be trained here; train another kind")

    def _units(self, x: Tensor) -> tuple[Tensor | None, tuple[Tensor, Tensor]]:
        """Each row's centre; what it is divided by on the way in and multiplied by on the way out."""
        one = x.new_ones(())
        if self.cfg.input_norm == "layer_norm":
            std = x.std(-1, keepdim=True)
            return x.mean(-1, keepdim=True), (std + LN_EPS, std)
        if self.cfg.input_norm == "rescale":
            scale = x.norm(dim=-1, keepdim=True) / self.d_in**0.5
            return x.new_zeros(()), (torch.where(scale > 0, scale, one), scale)
        return None, (one, one)

    def _finish(self, z_hat: Tensor, x: Tensor | None) -> Tensor:
        if self.cfg.input_norm == "none" and self.W_skip is None:
            return z_hat
        if x is None:
            what = "its skip" if self.W_skip is not None else f"its norm of each row ({self.cfg.input_norm})"
            raise MismatchError(
                f"This imported SAE's output depends on its input through {what}: expected "
                f"decode(acts, cell, x), got no x. Pass it, or call the SAE itself"
            )
        x = super().normalize(x)
        if self.W_skip is not None:
            return z_hat + x @ self.W_skip
        mean, scale = self._units(x)
        return z_hat if mean is None else z_hat * scale[1] + mean

    def _pursue(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_sae"]:
        """The latent nearest to the residual takes what it explains, until it stops (Mallat & Zhang 1993)."""
        cfg = self.cfg
        acts = x.new_zeros(len(x), self.d_sae)
        going = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        for _ in range(cfg.max_iterations or self.d_in):
            best = (x @ self.W_dec.T).relu().argmax(1, keepdim=True)
            rows = self.W_dec[best.squeeze(1)]
            value = (x * rows).sum(1, keepdim=True).relu() * going
            new = (acts.gather(1, best) == 0) & (value > 0)
            acts = acts.scatter_add(1, best, value)
            x = x - value * rows
            if cfg.stop_on_duplicate_support:
                going = going & new
            if cfg.residual_threshold > 0:
                going = going & (x.norm(dim=1, keepdim=True) >= cfg.residual_threshold)
            if not going.any():
                break
        return acts
