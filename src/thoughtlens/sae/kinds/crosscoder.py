"""Crosscoder: one code for several sites at once (Lindsey et al. 2024, Sparse Crosscoders)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thoughtlens.core import MismatchError
from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import MEDIAN_ROWS, SAE, Batch, LossTerms, SparseActs
from thoughtlens.sae.kinds.batchtopk import update_threshold
from thoughtlens.sae.kinds.config import CrosscoderConfig, SAEConfig
from thoughtlens.sae.kinds.normalization import Cell, described, fit_normalization, geometric_median
from thoughtlens.sae.kinds.topk import auxk_term


class Crosscoder(SAE):
    """`acts = rule(sum_s (z_s - b_dec_s) @ W_enc_s + b_enc)`, `x_hat_s = acts @ W_dec_s + b_dec_s`.

    Takes and returns `[*batch, n_sites, d_in]`. A site is its own cell: `normalization = "per_cell"` (what
    auto means here) centres and scales each site by itself, is saved as a table, and needs no `cell`.
    With decoder_norm = "unit" a latent's decoder has length 1 over all sites together, so how that
    length falls on the sites is what `persistence` reads.

    Loss, on normalised activations. batchtopk: mean squared error over rows, sites and dimensions, plus
    `auxk * auxk_loss`. l1: squared error summed over a row, plus `l1` times
    `sum_f acts_f * sum_s |W_dec[f, s]|`.
    """

    kind = "crosscoder"
    reconstructs = False
    cfg: CrosscoderConfig
    latent_axis: ClassVar[dict[str, int]] = {**SAE.latent_axis, "W_enc": 2}
    threshold: Tensor

    def __init__(self, cfg: SAEConfig, d_in: int, d_out: int | None = None):
        super().__init__(cfg, d_in, d_out)
        n = self.n_sites = len(self.cfg.sites)
        self.W_enc = nn.Parameter(torch.zeros(n, self.d_in, self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, n, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(n, self.d_out))
        self.register_buffer("threshold", torch.zeros(()))

    @property
    def cells(self) -> list[Cell] | None:
        """None: sites are told apart by their place."""
        return None

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Pre-activations strictly above the threshold, which is 0 for l1."""
        return torch.where(pre_acts > self.threshold, pre_acts, 0)

    def train_acts(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """The batch's k * batch largest, or all that are positive."""
        return (
            kernels.batch_topk(pre_acts, self.cfg.k) if self.cfg.sparsity == "batchtopk" else pre_acts.relu()
        )

    def scale_thresholds(self, factor: Float[Tensor, ""]) -> None:
        """The threshold is in units of the activations."""
        self.threshold *= factor

    def encode(
        self, x: Float[Tensor, "*batch n_sites d_in"], cell: Tensor | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """Activations of all latents, one code for all sites."""
        return self.activate(self.pre_acts(self.normalize(x).flatten(0, -3))).unflatten(0, x.shape[:-2])

    def encode_sparse(
        self, x: Float[Tensor, "*batch n_sites d_in"], cell: Tensor | None = None
    ) -> SparseActs:
        """Activations of the latents that fire, padded to the row where most do."""
        acts = self.encode(x)
        k = max(1, int((acts != 0).sum(-1).max())) if acts.numel() else 1
        return SparseActs(*acts.topk(k, dim=-1))

    def decode(
        self, acts: Float[Tensor, "*batch d_sae"], cell: Tensor | None = None, x: Tensor | None = None
    ) -> Float[Tensor, "*batch n_sites d_out"]:
        """Raw reconstruction of every site."""
        z_hat = kernels.decode_dense(self.code(acts), self.W_dec.flatten(1))
        z_hat = z_hat.unflatten(-1, (self.n_sites, self.d_out))
        return self.denormalize(z_hat + self.b_dec)

    def decode_sparse(
        self, acts: SparseActs, cell: Tensor | None = None, x: Tensor | None = None
    ) -> Float[Tensor, "*batch n_sites d_out"]:
        """`decode` that reads only the rows of W_dec in use."""
        acts = self.sparse_code(acts)
        flat = kernels.decode(acts.values.flatten(0, -2), acts.indices.flatten(0, -2), self.W_dec.flatten(1))
        z_hat = flat.view(*acts.values.shape[:-1], self.n_sites, self.d_out) + self.b_dec
        return self.denormalize(z_hat)

    def forward(
        self, x: Float[Tensor, "*batch n_sites d_in"], cell: Tensor | None = None
    ) -> Float[Tensor, "*batch n_sites d_out"]:
        """x_hat."""
        return self.decode(self.encode(x))

    def pre_acts(self, z: Float[Tensor, "batch n_sites d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Pre-activations of normalised input."""
        if self.cfg.pre_bias:
            z = z - self.b_dec
        W_enc = self.W_enc.flatten(0, 1)
        return kernels.linear(z.flatten(1), W_enc, self.b_enc, self.compute_dtype)

    def normalize(self, x: Tensor, cell: Tensor | None = None) -> Tensor:
        """Raw activations in the units of the weights.

        Raises:
            MismatchError: another number of sites or width.
        """
        if not isinstance(x, Tensor) or x.shape[-2:] != (self.n_sites, self.d_in):
            raise MismatchError(
                f"This crosscoder takes [..., {self.n_sites}, {self.d_in}], got {described(x)}. "
                f"Stack the sites it was trained on, in order: {', '.join(self.cfg.sites)}"
            )
        x = x.to(self.W_enc.dtype)
        return x if self.normalization is None else self.normalization.apply_to(x, self._site(x))

    def denormalize(self, z_hat: Tensor, cell: Tensor | None = None) -> Tensor:
        """The inverse, for reconstructions."""
        return z_hat if self.normalization is None else self.normalization.undo(z_hat, self._site(z_hat))

    def loss(self, batch: Batch) -> LossTerms:
        """`reconstruction` and `auxk`, or `reconstruction` and `l1`."""
        cfg = self.cfg
        z = self.normalize(batch.x)
        pre_acts = self.pre_acts(z)
        acts = self.train_acts(pre_acts)
        W_dec, b_dec = self.W_dec.flatten(1), self.b_dec.flatten()
        residual = z.flatten(1) - kernels.linear(acts, W_dec, b_dec, self.compute_dtype)
        if cfg.sparsity == "batchtopk":
            terms = {"reconstruction": residual.square().mean()}
            return LossTerms(terms | auxk_term(cfg, residual, pre_acts, W_dec, batch), acts)
        weighted = (acts * self.W_dec.norm(dim=-1).sum(-1)).sum(-1).mean()
        return LossTerms(
            {
                "reconstruction": residual.square().sum(-1).mean(),
                "l1": cfg.penalty_at(batch.progress) * weighted,
            },
            acts,
        )

    @torch.no_grad()
    def after_step(self, batch: Batch, loss: LossTerms) -> None:
        """Bring the threshold up to date."""
        if self.cfg.sparsity == "batchtopk":
            update_threshold(self.threshold, loss.acts, self.cfg.threshold_decay)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Random decoder over all sites together, encoder its transpose; from the generator alone."""
        if self.cfg.init == "data":
            self.W_dec.copy_(torch.randn(self.W_dec.shape, generator=generator))
            self.W_dec /= self.W_dec.flatten(1).norm(dim=1)[:, None, None]
        else:
            bound = (self.n_sites * self.d_in) ** -0.5
            if self.cfg.init == "xavier":
                bound = (6 / (self.n_sites * self.d_in + self.d_sae)) ** 0.5
            self.W_dec.uniform_(-bound, bound, generator=generator)
        self.W_enc.copy_(self.W_dec.permute(1, 2, 0))
        self.normalize_decoder()

    @torch.no_grad()
    def initialize(
        self,
        x: Float[Tensor, "n n_sites d_in"],
        cell: Tensor | None = None,
        cells: Sequence[Cell] = (),
        y: Tensor | None = None,
    ) -> None:
        """Fit normalisation and b_dec to a sample of raw activations."""
        mode = "per_cell" if self.cfg.normalization == "auto" else self.cfg.normalization
        if mode != "none":
            rows = x.to(self.W_enc.dtype).transpose(0, 1).flatten(0, 1)
            site = torch.arange(self.n_sites, device=x.device).repeat_interleave(len(x))
            self.normalization = fit_normalization(
                rows, mode, site, [(name, None) for name in self.cfg.sites]
            )
        if self.cfg.init == "data":
            z = self.normalize(x[:MEDIAN_ROWS])
            if self.cfg.pre_bias:
                self.b_dec.copy_(geometric_median(z.flatten(1)).view_as(self.b_dec))
            self.fit_gain(z)

    @torch.no_grad()
    def fold(self) -> None:
        """Bring a normalisation common to all sites into the weights; a table stays."""
        if self.normalization is None or self.normalization.cells is not None:
            return
        mean, spread = self.normalization.mean[0], self.normalization.spread[0]
        self.b_enc *= spread
        if not self.cfg.pre_bias:
            self.b_enc -= torch.einsum("d,sdf->f", mean, self.W_enc)
        self.b_dec.mul_(spread).add_(mean)
        self.scale_thresholds(spread)
        self.normalization = None

    def _site(self, x: Tensor) -> Int[Tensor, "*batch n_sites"]:
        return torch.arange(self.n_sites, device=x.device).expand(x.shape[:-1])
