"""Transcoder: one hook from another through a sparse code (Dunefsky et al. 2024, arXiv:2406.11944)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thoughtlens.core import MismatchError
from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import MEDIAN_ROWS, SAE, Batch, LossTerms, SparseActs
from thoughtlens.sae.kinds.config import SAEConfig, TranscoderConfig
from thoughtlens.sae.kinds.normalization import (
    Cell,
    Mode,
    Normalization,
    fit_normalization,
    geometric_median,
)
from thoughtlens.sae.kinds.topk import auxk_term


class Transcoder(SAE):
    """`y_hat = topk(z_in @ W_enc + b_enc) @ W_dec + b_dec (+ z_in @ W_skip)`.

    With `skip`, the affine map of Paulo et al. 2025, arXiv:2501.18823; it starts at 0. Input and output
    have normalisations of their own. Loss, on normalised output: mean squared error over rows and
    dimensions, plus `auxk * auxk_loss`.
    """

    kind = "transcoder"
    reconstructs = False
    cfg: TranscoderConfig

    def __init__(self, cfg: SAEConfig, d_in: int, d_out: int | None = None):
        super().__init__(cfg, d_in, d_out)
        self.W_skip = nn.Parameter(torch.zeros(self.d_in, self.d_out)) if self.cfg.skip else None
        self.normalization_out: Normalization | None = None

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """All but the k largest set to 0."""
        return SparseActs(*kernels.topk(pre_acts, self.cfg.k)).to_dense(self.d_sae)

    def decode(
        self,
        acts: Float[Tensor, "*batch d_sae"],
        cell: Int[Tensor, "*batch"] | None = None,
        x: Float[Tensor, "*batch d_in"] | None = None,
    ) -> Float[Tensor, "*batch d_out"]:
        """Raw prediction of the output; with `skip` it also needs the input.

        Raises:
            MismatchError: `skip`, and no `x`.
        """
        return self._add_skip(kernels.decode_dense(self.code(acts), self.W_dec) + self.b_dec, cell, x)

    def decode_sparse(
        self,
        acts: SparseActs,
        cell: Int[Tensor, "*batch"] | None = None,
        x: Float[Tensor, "*batch d_in"] | None = None,
    ) -> Float[Tensor, "*batch d_out"]:
        """`decode` that reads only the rows of W_dec in use."""
        acts = self.sparse_code(acts)
        z_hat = kernels.decode(acts.values.flatten(0, -2), acts.indices.flatten(0, -2), self.W_dec)
        return self._add_skip((z_hat + self.b_dec).unflatten(0, acts.values.shape[:-1]), cell, x)

    def forward(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """y_hat."""
        return self.decode(self.encode(x, cell), cell, x)

    def denormalize(self, z_hat: Tensor, cell: Tensor | None = None) -> Tensor:
        """Predictions in raw units of the output."""
        return z_hat if self.normalization_out is None else self.normalization_out.undo(z_hat, cell)

    def target(self, batch: Batch) -> Float[Tensor, "batch d_out"]:
        """The output in normalised units.

        Raises:
            MismatchError: the batch has no `y`.
        """
        if batch.y is None:
            raise MismatchError("A transcoder trains on pairs: expected the output in Batch.y, got None")
        return self._normalize_out(batch.y, batch.cell)

    def normalized_output(self, batch: Batch) -> Float[Tensor, "batch d_out"]:
        """The prediction in normalised units."""
        return self._normalize_out(self(batch.x, batch.cell), batch.cell)

    def loss(self, batch: Batch) -> LossTerms:
        """`reconstruction` of `batch.y` and, while latents are dead, `auxk`."""
        target = self.target(batch)
        z = self.normalize(batch.x, batch.cell)
        pre_acts = self.pre_acts(z)
        acts = SparseActs(*kernels.topk(pre_acts, self.cfg.k))
        z_hat = kernels.decode(acts.values, acts.indices, self.W_dec) + self.b_dec
        residual = target - (z_hat if self.W_skip is None else z_hat + z @ self.W_skip)
        terms = {"reconstruction": residual.square().mean()}
        return LossTerms(terms | auxk_term(self.cfg, residual, pre_acts, self.W_dec, batch), acts)

    @torch.no_grad()
    def initialize(
        self,
        x: Float[Tensor, "n d_in"],
        cell: Int[Tensor, " n"] | None = None,
        cells: Sequence[Cell] = (),
        y: Float[Tensor, "n d_out"] | None = None,
    ) -> None:
        """Fit both normalisations; b_dec to the output's centre, b_enc so that the input's gives 0.

        Here `global` centres too: no pre-bias takes the mean from the input, and a mean much larger than
        the spread would slow the encoder down.

        Raises:
            MismatchError: no `y`.
        """
        if y is None:
            raise MismatchError(
                "A transcoder starts from pairs: expected y, a sample of the output, got None"
            )
        mode = self.normalization_mode(cells)
        if mode is not None:
            self.normalization = _centred(x.to(self.W_enc.dtype), mode, cell, cells)
            self.normalization_out = _centred(y.to(self.W_enc.dtype), mode, cell, cells)
        if self.cfg.init == "data":
            head = slice(0, MEDIAN_ROWS)
            index = None if cell is None else cell[head]
            self.b_dec.copy_(geometric_median(self._normalize_out(y[head], index)))
            self.b_enc.copy_(-geometric_median(self.normalize(x[head], index)) @ self.W_enc)

    @torch.no_grad()
    def fold(self) -> None:
        """Bring global normalisations of both sides into the weights; per-cell tables stay.

        As for every SAE, decoder rows do not change and activations come out in raw units of the output.
        """
        if (
            self.normalization is None
            or self.normalization_out is None
            or self.normalization.cells is not None
        ):
            return
        mean, spread = self.normalization.mean[0], self.normalization.spread[0]
        mean_out, spread_out = self.normalization_out.mean[0], self.normalization_out.spread[0]
        self.W_enc.mul_(spread_out / spread)
        self.b_enc.mul_(spread_out).sub_(mean @ self.W_enc)
        self.b_dec.mul_(spread_out).add_(mean_out)
        if self.W_skip is not None:
            self.W_skip.mul_(spread_out / spread)
            self.b_dec.sub_(mean @ self.W_skip)
        self.normalization = self.normalization_out = None

    def set_cells(self, cells: Sequence[Cell]) -> None:
        """Empty tables for both sides."""
        super().set_cells(cells)
        cells = list(cells)
        self.normalization_out = Normalization(
            torch.zeros(len(cells), self.d_out), torch.ones(len(cells)), cells
        )

    def _normalize_out(self, y: Tensor, cell: Tensor | None) -> Tensor:
        y = y.to(self.W_enc.dtype)
        return y if self.normalization_out is None else self.normalization_out.apply_to(y, cell)

    def _add_skip(self, z_hat: Tensor, cell: Tensor | None, x: Tensor | None) -> Tensor:
        if self.W_skip is not None:
            if x is None:
                raise MismatchError(
                    "A skip-transcoder's output depends on its input too: expected decode(acts, cell, x), "
                    "got no x. Pass it, or call the transcoder itself"
                )
            z_hat = z_hat + self.normalize(x, cell) @ self.W_skip
        return self.denormalize(z_hat, cell)


def _centred(x: Tensor, mode: Mode, cell: Tensor | None, cells: Sequence[Cell]) -> Normalization:
    table = fit_normalization(x, mode, cell, cells)
    if mode == "global":
        table.mean.copy_(fit_normalization(x, "mean").mean)
    return table
