"""Matryoshka: nested dictionaries that all reconstruct (Bussmann et al. 2025, arXiv:2503.17547)."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from thoughtlens.core import ConfigError
from thoughtlens.numerics import kernels
from thoughtlens.sae.base import Batch, LossTerms
from thoughtlens.sae.kinds.batchtopk import BatchTopKConfig, BatchTopKSAE
from thoughtlens.sae.kinds.topk import with_auxk


class MatryoshkaConfig(BatchTopKConfig):
    """BatchTopK whose first latents also reconstruct on their own."""

    kind: Literal["matryoshka"] = "matryoshka"  # type: ignore[assignment]
    """Architecture."""
    prefixes: tuple[float, ...] = Field(default=(1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), min_length=1)
    """Sizes of the nested dictionaries as shares of d_sae, ascending, the last one 1."""
    prefix_weights: tuple[float, ...] | None = None
    """Weight of each dictionary's error, scaled to sum to 1; unset: all equal."""

    @model_validator(mode="after")
    def _consistent(self) -> MatryoshkaConfig:
        if self.prefixes[-1] != 1 or any(b <= a for a, b in pairwise((0.0, *self.prefixes))):
            raise ValueError(f"prefixes must ascend from above 0 to 1, got {self.prefixes}")
        weights = self.prefix_weights
        if weights is not None and len(weights) != len(self.prefixes):
            raise ValueError(
                f"expected {len(self.prefixes)} prefix_weights, one a prefix, got {len(weights)}"
            )
        if weights is not None and (min(weights) < 0 or weights[-1] <= 0):
            raise ValueError(f"prefix_weights must be >= 0, the last above 0, got {weights}")
        return self

    def check(self, d_in: int) -> None:
        """Also refuse prefixes that fall on the same number of latents."""
        super().check(d_in)
        widths = self.widths(d_in)
        if len(set(widths)) < len(widths) or widths[0] < 1:
            raise ConfigError(
                f"sae.prefixes: expected different numbers of latents, at least 1 each, got {widths} of "
                f"d_sae = {self.width(d_in)}; use fewer prefixes or raise sae.d_sae"
            )

    def widths(self, d_in: int) -> list[int]:
        """Number of latents in each nested dictionary."""
        return [round(share * self.width(d_in)) for share in self.prefixes]

    def weights(self) -> list[float]:
        """Weight of each dictionary's error; they sum to 1."""
        raw = self.prefix_weights or (1.0,) * len(self.prefixes)
        return [w / sum(raw) for w in raw]


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
        return with_auxk(self, terms, z, residual, acts, batch)
