"""An SAE that has learned nothing: random directions, the trained one's kind and sparsity."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import ConfigError, DataError
from thoughtlens.numerics import kernels
from thoughtlens.sae.baselines.base import Baseline
from thoughtlens.sae.kinds.base import SAE, SparseActs
from thoughtlens.sae.kinds.normalization import Normalization

CHUNK_ACTS = 2**24
"""Acts computed at once while fitting."""


class RandomSAE(Baseline):
    """Random unit directions as encoder and decoder, with as many latents firing as in a trained SAE.

    `rule` topk keeps each row's k largest positive pre-activations. `rule` relu gives each latent the
    threshold at which it fires on a share l0 / d_sae of the training rows. One scale for all
    activations is fitted by least squares, as overlapping directions would overshoot: it is the best
    that a random dictionary of this kind can do without learning. Make one with `fit` or `like`.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor

    def __init__(self, d_in: int, d_sae: int, *, seed: int, k: int | None = None) -> None:
        super().__init__(d_in, d_sae)
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(d_sae, d_in, generator=generator)
        directions /= directions.norm(dim=1, keepdim=True)
        self.k = k
        self.normalization: Normalization | None = None
        self.register_buffer("W_enc", directions.T.contiguous())
        self.register_buffer("b_enc", torch.zeros(d_sae))
        self.register_buffer("W_dec", directions)
        self.register_buffer("b_dec", torch.zeros(d_in))

    @classmethod
    def fit(
        cls,
        x: Float[Tensor, "n d_in"],
        *,
        d_sae: int,
        l0: float,
        rule: Literal["topk", "relu"],
        seed: int,
        normalization: Normalization | None = None,
        cell: Int[Tensor, " n"] | None = None,
    ) -> RandomSAE:
        """Fit bias, thresholds and scale to a sample of training rows.

        Args:
            x: Raw activations.
            d_sae: Number of latents.
            l0: Latents that shall fire on a row, on average.
            rule: How latents are chosen.
            seed: Of the directions.
            normalization: A trained SAE's, to see the same input; None for raw activations.
            cell: Each row's index into the normalisation's cells, where it has any.
        """
        if len(x) < 2:
            raise DataError(f"A random SAE needs at least 2 rows to fit its scale, got {len(x)}")
        if not 0 < l0 <= d_sae:
            raise ConfigError(f"Expected 0 < l0 <= d_sae = {d_sae}, got {l0}")
        k = min(d_sae, max(1, round(l0))) if rule == "topk" else None
        self = cls(x.shape[1], d_sae, seed=seed, k=k).to(x.device)
        if normalization is not None:
            self.normalization = copy.deepcopy(normalization)
            self.cells = self.normalization.cells
        z = self._normalize(x.float(), cell)
        self.b_dec.copy_(z.mean(0))
        if rule == "relu":
            self._fit_thresholds(z, l0 / d_sae)
        self._fit_scale(z)
        return self

    @classmethod
    def like(
        cls, sae: SAE, x: Float[Tensor, "n d_in"], cell: Int[Tensor, " n"] | None, *, l0: float, seed: int
    ) -> RandomSAE:
        """The random counterpart of a trained SAE: its width, rule, sparsity and normalisation.

        `l0` is the trained SAE's, as measured; `cell` indexes its cells.
        """
        rule = "topk" if getattr(sae.cfg, "k", None) is not None else "relu"
        return cls.fit(
            x, d_sae=sae.d_sae, l0=l0, rule=rule, seed=seed, normalization=sae.normalization, cell=cell
        )

    def encode(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """Activations of all latents."""
        return self._encode(self._normalize(x, cell).flatten(0, -2)).unflatten(0, x.shape[:-1])

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> SparseActs:
        """The latents that fire."""
        if self.k is None:
            return super().encode_sparse(x, cell)
        z = self._normalize(x, cell).flatten(0, -2)
        values, indices = kernels.topk(self._pre_acts(z), self.k)
        return SparseActs(values.unflatten(0, x.shape[:-1]), indices.unflatten(0, x.shape[:-1]))

    def decode(
        self,
        acts: Float[Tensor, "*batch d_sae"],
        cell: Int[Tensor, "*batch"] | None = None,
        x: Tensor | None = None,
    ) -> Float[Tensor, "*batch d_in"]:
        """Raw reconstruction."""
        return self._denormalize(acts @ self.W_dec + self.b_dec, cell)

    def decode_sparse(
        self, acts: SparseActs, cell: Int[Tensor, "*batch"] | None = None, x: Tensor | None = None
    ) -> Float[Tensor, "*batch d_in"]:
        """`decode` that reads only the rows of W_dec in use."""
        z_hat = kernels.decode(acts.values.flatten(0, -2), acts.indices.flatten(0, -2), self.W_dec)
        return self._denormalize((z_hat + self.b_dec).unflatten(0, acts.values.shape[:-1]), cell)

    def _denormalize(self, z_hat: Tensor, cell: Tensor | None) -> Tensor:
        return z_hat if self.normalization is None else self.normalization.undo(z_hat, cell)

    def _normalize(self, x: Tensor, cell: Tensor | None) -> Tensor:
        x = x.to(self.W_dec.dtype)
        return x if self.normalization is None else self.normalization.apply_to(x, cell)

    def _pre_acts(self, z: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        return (z - self.b_dec) @ self.W_enc + self.b_enc

    def _encode(self, z: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        pre_acts = self._pre_acts(z)
        if self.k is None:
            return pre_acts.relu()
        return SparseActs(*kernels.topk(pre_acts, self.k)).to_dense(self.d_sae)

    def _fit_thresholds(self, z: Float[Tensor, "n d_in"], density: float) -> None:
        for latents in torch.arange(self.d_sae).split(max(1, CHUNK_ACTS // len(z))):
            pre_acts = (z - self.b_dec) @ self.W_enc[:, latents]
            rank = min(len(z), max(1, round(len(z) * (1 - density))))
            self.b_enc[latents] = -pre_acts.kthvalue(rank, dim=0).values

    def _fit_scale(self, z: Float[Tensor, "n d_in"]) -> None:
        dot = power = 0.0
        for rows in z.split(max(1, CHUNK_ACTS // self.d_sae)):
            guess = self._encode(rows) @ self.W_dec
            dot += (guess * (rows - self.b_dec)).double().sum().item()
            power += guess.double().square().sum().item()
        scale = dot / power if power > 0 else 0.0
        self.W_enc *= scale
        self.b_enc *= scale
