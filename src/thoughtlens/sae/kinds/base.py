"""What every sparse autoencoder shares: parameters, encode and decode, normalisation, folding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thoughtlens.core import MismatchError
from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.config import SAEConfig
from thoughtlens.sae.kinds.normalization import (
    Cell,
    Mode,
    Normalization,
    cell_index,
    described,
    fit_normalization,
    geometric_median,
)

MEDIAN_ROWS = 4096
"""Rows of the sample that the geometric median is taken of."""


@dataclass(frozen=True)
class SparseActs:
    """Latents that fire: `values[..., j]` on latent `indices[..., j]`; padding has value 0."""

    values: Float[Tensor, "*batch k"]
    indices: Int[Tensor, "*batch k"]

    def to_dense(self, d_sae: int) -> Float[Tensor, "*batch d_sae"]:
        """The same as one column per latent."""
        dense = self.values.new_zeros(*self.values.shape[:-1], d_sae)
        return dense.scatter_add(-1, self.indices, self.values)


@dataclass(frozen=True)
class Batch:
    """What a training step sees. All activations are raw."""

    x: Float[Tensor, "batch ..."]
    y: Float[Tensor, "batch ..."] | None = None
    """Target, where it is not x."""
    cell: Int[Tensor, " batch"] | None = None
    """Each row's index into the SAE's cells."""
    dead: Bool[Tensor, " d_sae"] | None = None
    """Latents that count as dead now; None: nobody keeps count."""
    labels: Int[Tensor, "batch n_columns"] | None = None
    """Each row's class in each label column; -1: not labelled."""
    progress: float = 1.0
    """Share of the training done, for coefficients that warm up."""


@dataclass(frozen=True)
class LossTerms:
    """A loss by its parts: `total` is the sum of `terms`, coefficients included."""

    terms: dict[str, Float[Tensor, ""]]
    acts: Float[Tensor, "batch d_sae"] | SparseActs | kernels.RaggedActs
    """The batch's latents, for whoever counts them."""
    fired: Int[Tensor, " d_sae"] | None = None
    """On how many rows each latent fires, where the loss has counted it."""
    idle: Bool[Tensor, " d_sae"] | None = None
    """Latents without a part in the loss: the gradients of all they own are 0. None: not known."""
    residual: Float[Tensor, "batch d_out"] | None = None
    """What `auxk` was measured against, as a constant, where there is such a term."""
    total: Float[Tensor, ""] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", torch.stack(list(self.terms.values())).sum())


class SAE(nn.Module, ABC):
    """A sparse autoencoder `x_hat = acts @ W_dec + b_dec`; subclasses say what fires and what it costs.

    Callers pass raw activations. While `normalization` is set, weights live in normalised units;
    `fold` brings a global one into the weights. With a per-cell table, `cell` is needed and the
    latents' activations stay in normalised units, comparable over cells.
    """

    kind: ClassVar[str]
    reconstructs: ClassVar[bool] = True
    """Whether x_hat stands for x, one vector for one; not so for transcoders and crosscoders."""
    cfg: Any
    latent_axis: ClassVar[dict[str, int]] = {"W_enc": 1, "b_enc": 0, "W_dec": 0}
    """Along which axis each parameter holds one slice per latent."""
    revived_gain: ClassVar[float] = 1.0
    """Length of a resampled encoder column, as a share of the mean of those alive."""
    lr_factor: ClassVar[dict[str, float]] = {}
    """Parameters that need another learning rate, as multiples of the run's."""

    def __init__(self, cfg: SAEConfig, d_in: int, d_out: int | None = None):
        super().__init__()
        cfg.check(d_in)
        self.cfg = cfg = cfg.for_width(d_in)
        self.d_in, self.d_out, self.d_sae = d_in, d_out or d_in, cfg.width(d_in)
        self.W_enc = nn.Parameter(torch.zeros(self.d_sae, self.d_in).T)  # as `latents_together` has it
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.normalization: Normalization | None = None
        self.hook_names: list[str] = []
        self.provenance: dict[str, Any] = {}
        self._compute_dtype: torch.dtype | None = None
        self.register_load_state_dict_post_hook(latents_together)

    @property
    def directions(self) -> list[str] | None:
        """Names of the directions whose two ends are in the place of latents; None: these are latents."""
        told = self.provenance.get("directions")
        return told and told["names"]

    @abstractmethod
    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """The sparsity rule, before decoding."""

    def train_acts(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """What fires in training, where that is not what fires afterwards."""
        return self.activate(pre_acts)

    @abstractmethod
    def loss(self, batch: Batch) -> LossTerms:
        """The training objective on a batch, in normalised units."""

    def target(self, batch: Batch) -> Float[Tensor, "batch ..."]:
        """What a batch's reconstruction should be, in normalised units."""
        return self.normalize(batch.x, batch.cell)

    def normalized_output(self, batch: Batch) -> Float[Tensor, "batch ..."]:
        """What it is, as outside of training, in normalised units."""
        return self.normalize(self(batch.x, batch.cell), batch.cell)

    def revivable(self, dead: Bool[Tensor, " d_sae"]) -> Bool[Tensor, " d_sae"]:
        """Those of the dead latents that may be given something else to do."""
        return dead

    def revive(self, idx: Int[Tensor, " n"], pre_acts: Float[Tensor, " n"]) -> None:
        """Reset a kind's own parameters of resampled latents.

        `pre_acts` is what each gives on the row it was made from.
        """

    def after_step(self, batch: Batch, loss: LossTerms) -> None:
        """What a kind keeps track of while it trains; called after each optimizer step with its loss."""

    def scale_thresholds(self, factor: Float[Tensor, ""]) -> None:
        """Follow activations that are multiplied by `factor`, where the rule compares with a number."""

    def encode(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """Activations of all latents."""
        z = self.normalize(x, cell).reshape(-1, self.d_in)
        return self.activate(self.pre_acts(z)).reshape(*x.shape[:-1], self.d_sae)

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> SparseActs:
        """Activations of the latents that fire, padded to the row where most do."""
        acts = self.encode(x, cell)
        k = max(1, int((acts != 0).sum(-1).max())) if acts.numel() else 1
        return SparseActs(*acts.topk(k, dim=-1))

    def decode(
        self,
        acts: Float[Tensor, "*batch d_sae"],
        cell: Int[Tensor, "*batch"] | None = None,
        x: Tensor | None = None,
    ) -> Float[Tensor, "*batch d_out"]:
        """Raw reconstruction from activations; skip-transcoders also need the input `x`."""
        return self.denormalize(kernels.decode_dense(self.code(acts), self.W_dec) + self.b_dec, cell)

    def decode_sparse(
        self, acts: SparseActs, cell: Int[Tensor, "*batch"] | None = None, x: Tensor | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """`decode` that reads only the rows of W_dec in use."""
        acts = self.sparse_code(acts)
        k = acts.values.shape[-1]
        z_hat = kernels.decode(acts.values.reshape(-1, k), acts.indices.reshape(-1, k), self.W_dec)
        return self.denormalize((z_hat + self.b_dec).reshape(*acts.values.shape[:-1], self.d_out), cell)

    def forward(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """x_hat."""
        return self.decode(self.encode(x, cell), cell)

    def pre_acts(self, z: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Pre-activations of normalised input."""
        return kernels.linear(self.centred(z), self.W_enc, self.b_enc, self.compute_dtype)

    @property
    def compute_dtype(self) -> torch.dtype:
        """dtype of dense products; that of the weights, unless one is set (None: unset)."""
        return self._compute_dtype or self.W_enc.dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype | None) -> None:
        self._compute_dtype = dtype

    @property
    def centre(self) -> Float[Tensor, " d_in"] | None:
        """What the encoder takes off its input: b_dec, or with `pre_bias = false` nothing."""
        return self.b_dec if self.cfg.pre_bias else None

    def centred(self, z: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """What the encoder's product takes."""
        return z if self.centre is None else z - self.centre

    def normalize(self, x: Tensor, cell: Tensor | None = None) -> Tensor:
        """Raw activations in the units of the weights.

        Raises:
            MismatchError: another width than d_in, or no `cell` where the SAE needs it.
        """
        if not isinstance(x, Tensor) or x.shape[-1:] != (self.d_in,) or x.is_complex():
            raise MismatchError(
                f"This SAE (hooks {', '.join(self.hook_names) or 'unknown'}) takes activations of width "
                f"{self.d_in}, got {described(x)}. Pass the hook it was trained on"
            )
        x = x.to(self.W_enc.dtype)
        return x if self.normalization is None else self.normalization.apply_to(x, cell)

    def code(self, acts: Tensor) -> Float[Tensor, "*batch d_sae"]:
        """Activations in the weights' number format.

        Raises:
            MismatchError: not one number for each latent.
        """
        if not isinstance(acts, Tensor) or acts.shape[-1:] != (self.d_sae,):
            raise MismatchError(
                f"Expected activations of {self.d_sae} latents in the last dimension, got {described(acts)}. "
                f"Pass what `encode` returned"
            )
        return acts.to(self.W_dec.dtype)

    def sparse_code(self, acts: SparseActs) -> SparseActs:
        """The same for sparse activations: the kernels read the rows of W_dec that `indices` name, unasked.

        Raises:
            MismatchError: indices that are no latents of this SAE, or not one for each value.
        """
        values, indices = acts.values, acts.indices
        if values.shape != indices.shape or indices.is_floating_point():
            raise MismatchError(
                f"Expected one whole number in indices for each value, got {described(indices)} beside "
                f"{described(values)}. Pass what `encode_sparse` returned"
            )
        least, most = torch.stack(indices.aminmax()).tolist() if indices.numel() else (0, 0)
        if not 0 <= least <= most < self.d_sae:
            raise MismatchError(
                f"Expected indices of {self.d_sae} latents, got {least} to {most}. Pass what `encode_sparse` "
                f"of this SAE returned"
            )
        return SparseActs(values.to(self.W_dec.dtype), indices)

    def denormalize(self, z_hat: Tensor, cell: Tensor | None = None) -> Tensor:
        """The inverse, for reconstructions."""
        return z_hat if self.normalization is None else self.normalization.undo(z_hat, cell)

    def set_cells(self, cells: Sequence[Cell]) -> None:
        """An empty table for these cells, to be filled from a file."""
        self.normalization = Normalization(torch.zeros(len(cells), self.d_in), torch.ones(len(cells)), cells)

    @property
    def cells(self) -> list[Cell] | None:
        """The (hook_name, thought_idx) pairs of a per-cell table; None where `cell` is not needed."""
        return None if self.normalization is None else self.normalization.cells

    def cell_index(
        self, cells: Sequence[Cell], cell: np.ndarray | Int[Tensor, " n"]
    ) -> Int[Tensor, " n"] | None:
        """Rows' cells as this SAE counts them: what `encode` and `decode` want.

        Args:
            cells: The caller's list of (hook_name, thought_idx), such as `View.cells`.
            cell: Each row's index into it.

        Returns:
            Each row's index into `self.cells`; None where this SAE needs none.

        Raises:
            MismatchError: a row of a cell for which the SAE has no statistics.
        """
        return None if self.cells is None else cell_index(self.cells, cells, cell).to(self.W_enc.device)

    def at(self, hook_name: str, thought: int | None = None) -> AtCell:
        """This SAE on rows of one cell, as in `sae.at("layers.8:out", 3).encode(x)`.

        Raises:
            MismatchError: a cell for which the SAE has no statistics.
        """
        return AtCell.of(self, hook_name, thought)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Random initial weights, from the generator alone."""
        if self.cfg.init == "xavier":
            nn.init.xavier_uniform_(self.W_enc, generator=generator)
            nn.init.xavier_uniform_(self.W_dec, generator=generator)
            self.normalize_decoder()
        elif self.cfg.init == "linear":
            fans = ((self.W_enc, self.d_in), (self.b_enc, self.d_in), (self.b_dec, self.d_sae))
            for parameter, fan_in in fans:
                parameter.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            self.W_dec.copy_(self.W_enc.T)
            self.normalize_decoder()
        else:
            self.W_dec.copy_(torch.randn(self.d_sae, self.d_out, generator=generator))
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)
            if self.d_in == self.d_out:
                self.W_enc.copy_(self.W_dec.T)
            else:
                self.W_enc.copy_(torch.randn(self.d_in, self.d_sae, generator=generator) / self.d_in**0.5)

    def normalization_mode(self, cells: Sequence[Cell]) -> Mode | None:
        """The config's normalisation on rows of these cells, `auto` resolved; None for none."""
        mode = self.cfg.normalization
        if mode == "auto":
            return "per_cell" if len(cells) > 1 else "global"
        return None if mode == "none" else mode

    @torch.no_grad()
    def initialize(
        self,
        x: Float[Tensor, "n d_in"],
        cell: Int[Tensor, " n"] | None = None,
        cells: Sequence[Cell] = (),
        y: Tensor | None = None,
    ) -> None:
        """Fit normalisation and b_dec to a sample of raw activations.

        Args:
            x: The sample.
            cell: Each row's index into `cells`.
            cells: The (hook_name, thought_idx) pairs.
            y: The targets, for kinds whose target is not x.
        """
        mode = self.normalization_mode(cells)
        if mode is not None:
            self.normalization = fit_normalization(x.to(self.W_enc.dtype), mode, cell, cells)
        if self.cfg.init == "data":
            head = slice(0, MEDIAN_ROWS)
            z = self.normalize(x[head], None if cell is None else cell[head])
            if self.cfg.pre_bias:
                self.b_dec.copy_(geometric_median(z))
            self.fit_gain(z)

    @torch.no_grad()
    def fit_gain(self, z: Float[Tensor, "n ..."]) -> float:
        """Scale the encoder so that the reconstruction of `z` fits best; returns the factor.

        An encoder that is the decoder transposed counts what its latents have in common once for each of
        them: reconstructions start several times too long, and early training goes into shrinking them.
        """
        target = (z - self.b_dec).flatten(1)
        written = self.train_acts(self.pre_acts(z)) @ self.W_dec.flatten(1)
        length = written.square().sum()
        gain = float((written * target).sum() / length) if length > 0 else 1.0
        if gain <= 0:
            return 1.0
        self.W_enc *= gain
        return gain

    @torch.no_grad()
    def fold(self) -> None:
        """Bring a global normalisation into the weights; a per-cell table stays.

        x_hat and which latents fire do not change, nor do decoder rows; activations are multiplied by
        the spread, so that a latent's activation is the length of what it writes, in raw units.
        """
        if self.normalization is None or self.normalization.cells is not None:
            return
        mean, spread = self.normalization.mean[0], self.normalization.spread[0]
        self.b_enc *= spread
        if not self.cfg.pre_bias:
            self.b_enc -= mean @ self.W_enc
        self.b_dec.mul_(spread).add_(mean)
        self.scale_thresholds(spread)
        self.normalization = None

    def unfold(self, known: Normalization) -> None:
        """Bring a global normalisation out of the weights again, as before `fold`, so that they can be
        trained further in its units.
        """
        mean, spread = known.mean, known.spread
        self.normalization = Normalization(-mean / spread[:, None], 1 / spread, None)
        self.fold()
        self.normalization = known

    @property
    def unit_from(self) -> int | None:
        """The latent from which on decoders keep length 1; None: none does."""
        return 0 if self.cfg.decoder_norm == "unit" else None

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Decoders back to length 1, where the config asks for it."""
        if self.unit_from is not None:
            rows = self.W_dec[self.unit_from :].flatten(1)
            rows /= rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


@runtime_checkable
class Coder(Protocol):
    """What an SAE and a baseline have in common."""

    def encode(self, x: Tensor, cell: Tensor | None = None) -> Tensor:
        """Activations of all latents."""
        ...

    def encode_sparse(self, x: Tensor, cell: Tensor | None = None) -> SparseActs:
        """Activations of the latents that fire."""
        ...

    def decode(self, acts: Tensor, cell: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """Raw reconstruction from activations."""
        ...

    def decode_sparse(self, acts: SparseActs, cell: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """The same from those that fire."""
        ...

    def cell_index(self, cells: Sequence[Cell], cell: np.ndarray) -> Tensor | None:
        """Rows' cells as it counts them."""
        ...

    def __call__(self, x: Tensor, cell: Tensor | None = None) -> Tensor:
        """x_hat."""
        ...


@dataclass(frozen=True, eq=False)
class AtCell:
    """An SAE or a baseline on rows that are all of one (hook, thought) cell."""

    model: Coder
    cell: Int[Tensor, ""] | None
    """The cell as the model counts it; None where it counts none."""

    @classmethod
    def of(cls, model: Coder, hook_name: str, thought: int | None) -> AtCell:
        """The model at a cell."""
        index = model.cell_index([(hook_name, thought)], np.zeros(1, np.int64))
        return cls(model, None if index is None else index[0])

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Activations of all latents."""
        return self.model.encode(x, self._cells(x))

    def encode_sparse(self, x: Float[Tensor, "*batch d_in"]) -> SparseActs:
        """Activations of the latents that fire, padded to the row where most do."""
        return self.model.encode_sparse(x, self._cells(x))

    def decode(
        self, acts: Float[Tensor, "*batch d_sae"], x: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Raw reconstruction from activations; some kinds also need the input `x`."""
        return self.model.decode(acts, self._cells(acts), x)

    def decode_sparse(
        self, acts: SparseActs, x: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """`decode` that reads only the rows of W_dec in use."""
        return self.model.decode_sparse(acts, self._cells(acts.values), x)

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """x_hat."""
        return self.model(x, self._cells(x))

    def _cells(self, rows: Tensor) -> Int[Tensor, "*batch"] | None:
        return None if self.cell is None else self.cell.to(rows.device).expand(rows.shape[:-1])


def latents_together(sae: SAE, *_: object) -> None:
    """Let each latent's encoder weights lie together in memory, transposed to what the shape says.

    The kernels want them so, and the last digits of products depend on it.
    """
    W_enc = sae.W_enc
    if W_enc.ndim == 2 and not W_enc.T.is_contiguous():
        W_enc.data = W_enc.data.T.contiguous().T


def counts(
    acts: Float[Tensor, "*batch d_sae"] | SparseActs | kernels.RaggedActs, d_sae: int
) -> Int[Tensor, " d_sae"]:
    """On how many of the rows each latent fires."""
    if isinstance(acts, kernels.RaggedActs):
        return acts.counts
    if isinstance(acts, SparseActs):
        fired = acts.indices.new_zeros(d_sae)
        return fired.scatter_add_(0, acts.indices.flatten(), (acts.values != 0).flatten().to(fired.dtype))
    return (acts != 0).reshape(-1, d_sae).sum(0)
