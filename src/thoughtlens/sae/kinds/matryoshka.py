"""Matryoshka: nested dictionaries that all reconstruct (Bussmann et al. 2025, arXiv:2503.17547)."""

from __future__ import annotations

from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import Batch, LossTerms
from thoughtlens.sae.kinds.batchtopk import BatchTopKSAE
from thoughtlens.sae.kinds.config import MatryoshkaConfig
from thoughtlens.sae.kinds.topk import with_auxk


class MatryoshkaSAE(BatchTopKSAE):
    """BatchTopK over all latents; the loss is the weighted mean of the errors of nested dictionaries.

    Dictionary i is the first `widths[i]` latents with what they fire in the selection over all of them,
    and b_dec. Weights sum to 1, so that losses and learning rates compare with BatchTopK's whatever
    the number of prefixes. Early latents come to hold what is general and need not be split
    or absorbed by later ones. The auxiliary loss predicts what the whole dictionary leaves over.
    """

    kind = "matryoshka"
    cfg: MatryoshkaConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def loss(self, batch: Batch) -> LossTerms:
        """`reconstruction_<width>` of each dictionary and, while latents are dead, `auxk`."""
        z = self.normalize(batch.x, batch.cell)
        acts = kernels.encode_batchtopk(
            z, self.centre, self.W_enc, self.b_enc, self.cfg.k, self.compute_dtype
        )
        terms, start, residual = {}, 0, z - self.b_dec
        for width, weight in zip(self.cfg.widths(self.d_in), self.cfg.weights(), strict=True):
            ragged = isinstance(acts, kernels.RaggedActs)
            part = acts.between(start, width) if ragged else acts[:, start:width]
            residual = residual - kernels.decode_acts(part, self.W_dec[start:width], self.compute_dtype)
            terms[f"reconstruction_{width}"] = weight * residual.square().mean()
            start = width
        return with_auxk(self, terms, z, residual, acts, batch=batch)
