"""TopK: each row keeps its k largest pre-activations (Gao et al. 2024, arXiv:2406.04093)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import SAE, Batch, LossTerms, SparseActs, counts
from thoughtlens.sae.kinds.config import AuxKConfig, TopKConfig


class TopKSAE(SAE):
    """Keep each row's k largest pre-activations (Gao et al. 2024, arXiv:2406.04093, 2.3).

    Loss, on normalised activations: mean squared error over rows and dimensions, plus
    `auxk * auxk_loss`.
    """

    kind = "topk"
    cfg: TopKConfig

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """All but the k largest set to 0."""
        return SparseActs(*kernels.topk(pre_acts, self.cfg.k)).to_dense(self.d_sae)

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> SparseActs:
        """The k latents of each row."""
        z = self.normalize(x, cell).reshape(-1, self.d_in)
        values, indices = kernels.topk(self.pre_acts(z), self.cfg.k)
        shape = (*x.shape[:-1], self.cfg.k)
        return SparseActs(values.reshape(shape), indices.reshape(shape))

    def forward(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """x_hat, without a dense code."""
        return self.decode_sparse(self.encode_sparse(x, cell), cell)

    def loss(self, batch: Batch) -> LossTerms:
        """`reconstruction` and, while latents are dead, `auxk`."""
        z = self.normalize(batch.x, batch.cell)
        values, indices = kernels.encode_topk(
            z, self.W_enc, self.b_enc, self.cfg.k, self.compute_dtype, self.centre
        )
        acts = SparseActs(values, indices)
        error, residual = kernels.decode_error(values, indices, self.W_dec, z, self.b_dec)
        return with_auxk(self, {"reconstruction": error / residual.numel()}, z, residual, acts, batch=batch)


def with_auxk(
    sae: SAE,
    terms: dict[str, Float[Tensor, ""]],
    z: Float[Tensor, "batch d_in"],
    residual: Float[Tensor, "batch d_out"],
    acts: Float[Tensor, "batch d_sae"] | SparseActs | kernels.RaggedActs,
    *,
    batch: Batch,
) -> LossTerms:
    """The loss of an SAE on normalised input, with `auxk` while latents are dead.

    The term is `auxk_loss`, from the encoder columns of the dead latents alone.
    """
    fired = counts(acts, sae.d_sae)
    idle = fired == 0
    if sae.cfg.auxk > 0 and batch.dead is not None:
        loss = residual.new_zeros(())
        if len(latents := batch.dead.nonzero().squeeze(1)):
            pre_acts = kernels.linear(
                sae.centred(z), sae.W_enc[:, latents], sae.b_enc[latents], sae.compute_dtype
            )
            k_aux = sae.cfg.k_aux or max(1, residual.shape[1] // 2)
            loss = dead_loss(residual, pre_acts, sae.W_dec[latents], k_aux, sae.compute_dtype)
        terms = terms | {"auxk": sae.cfg.auxk * loss}
        idle &= ~batch.dead
    return LossTerms(terms, acts, fired, idle, residual.detach())


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


def auxk_loss(
    residual: Float[Tensor, "batch d_out"],
    pre_acts: Float[Tensor, "batch d_sae"],
    W_dec: Float[Tensor, "d_sae d_out"],
    dead: Bool[Tensor, " d_sae"],
    k_aux: int,
) -> Float[Tensor, ""]:
    """FVU of the residual as predicted by the k_aux strongest dead latents (Gao et al. 2024, A.2).

    Unitless; 0 when no latent is dead. The residual is a target: no gradient flows through it, and
    b_dec, which it has seen already, is not added again. Gradients reach the encoder through
    `pre_acts` and the decoder rows of the dead latents.
    """
    latents = dead.nonzero().squeeze(1)
    return dead_loss(residual, pre_acts[:, latents], W_dec[latents], k_aux, W_dec.dtype)


def dead_loss(
    residual: Float[Tensor, "batch d_out"],
    pre_acts: Float[Tensor, "batch n_dead"],
    rows: Float[Tensor, "n_dead d_out"],
    k_aux: int,
    dtype: torch.dtype,
) -> Float[Tensor, ""]:
    """`auxk_loss` of the dead latents' own pre-activations and decoder rows, the product taken in `dtype`."""
    if len(rows) == 0:
        return residual.new_zeros(())
    target = residual.detach()
    acts = pre_acts.relu()
    if len(rows) > k_aux:
        values, kept = acts.topk(k_aux, dim=-1, sorted=False)
        acts = torch.zeros_like(acts).scatter(-1, kept, values)
    return unexplained(target, kernels.product(acts, rows, dtype))


def unexplained(
    target: Float[Tensor, "batch d_out"], predicted: Float[Tensor, "batch d_out"]
) -> Float[Tensor, ""]:
    """FVU of a prediction, on a batch."""
    scale = (target - target.mean(0)).square().sum()
    return (target - predicted).square().sum() / scale.clamp_min(torch.finfo(scale.dtype).tiny)
