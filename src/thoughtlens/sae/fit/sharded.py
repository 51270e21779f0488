"""A TopK SAE whose latents are spread over ranks, for dictionaries that do not fit one device.

Rank r holds the latents from `bounds[r]` to `bounds[r + 1]`: columns of W_enc, rows of W_dec, their moments
and counters. All see all rows. Of each row the k largest pre-activations of all ranks fire; the ranks'
parts of the reconstruction are added up. b_dec is on every rank, and alike.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thoughtlens.core import ConfigError, Ranks
from thoughtlens.numerics import kernels
from thoughtlens.sae.fit.shared import SharedTrainer, even_bounds, some_latents
from thoughtlens.sae.fit.trainer import Settings
from thoughtlens.sae.kinds.base import SAE, Batch, LossTerms, SparseActs, counts
from thoughtlens.sae.kinds.config import TopKConfig
from thoughtlens.sae.kinds.topk import TopKSAE, unexplained


class LatentParallelTrainer(SharedTrainer):
    """Training of a TopK SAE whose latents are spread over the ranks; every rank gets the whole batch.

    Loss, gradients and weights are those of one process, up to the order of sums. `state` and `whole`
    bring everything together in the first rank's host memory; elsewhere `whole` is the rank's own part.

    Args:
        sae: The whole SAE, the same on every rank, on the CPU; each rank copies its part to `device`.
        settings: Of the whole run.
        ranks: Who takes part.
        device: Of this rank's part.

    Raises:
        ConfigError: another kind than topk, resampling, or fewer latents than ranks.
    """

    parted: ClassVar[tuple[str, ...]] = ("adam.", "sae.", "silent_rows")

    def __init__(self, sae: SAE, settings: Settings, ranks: Ranks, device: torch.device):
        if not isinstance(sae, TopKSAE) or settings.resample_every is not None:
            raise ConfigError(
                f"train.parallel = latents: expected kind = topk without resampling, got {sae.kind}; "
                f"train it with train.parallel=data"
            )
        bounds = even_bounds(sae.d_sae, ranks.size)
        part = _moved(sae, slice(bounds[ranks.rank], bounds[ranks.rank + 1]), device)
        super().__init__(part, settings, ranks, bounds)
        self._frame = sae if ranks.first else None
        self._widest = max(last - first for first, last in pairwise(bounds))

    def step(
        self,
        x: Tensor,
        cell: Int[Tensor, " batch"] | None = None,
        y: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> LossTerms:
        """As `Trainer.step`."""
        loss = self.loss(Batch(x, y, cell, dead=self.tracker.dead))
        self.optimizer.zero_grad()
        loss.total.backward()
        assert loss.fired is not None and loss.idle is not None
        terms = {name: term.item() for name, term in loss.terms.items()}
        self._update(terms, loss.fired, loss.fired.sum(), loss.idle)
        return loss

    def loss(self, batch: Batch) -> LossTerms:
        """As `TopKSAE.loss`, the whole loss on every rank; gradients are those of this rank's latents."""
        sae, cfg = self.sae, self._cfg
        dtype = sae.compute_dtype
        z = sae.normalize(batch.x, batch.cell)
        centre = _Shared.apply(sae.b_dec, self.ranks) if cfg.pre_bias else None
        found, indices = kernels.encode_topk(z, sae.W_enc, sae.b_enc, min(cfg.k, sae.d_sae), dtype, centre)
        kept = self._kept(found, cfg.k)
        values, indices = torch.where(kept, found, 0), torch.where(kept, indices, 0)
        decoded = _Sum.apply(kernels.decode(values, indices, sae.W_dec), self.ranks)
        error, residual = kernels.squared_error(z, decoded, sae.b_dec)
        terms = {"reconstruction": error / residual.numel()}
        acts = SparseActs(values, indices)
        fired = counts(acts, sae.d_sae)
        idle = fired == 0
        if cfg.auxk > 0:
            assert batch.dead is not None
            centred = z if centre is None else z - centre
            terms["auxk"] = cfg.auxk * self._auxk(residual, centred, batch.dead, dtype)
            idle &= ~batch.dead
        return LossTerms(terms, acts, fired, idle, residual)

    @property
    def _cfg(self) -> TopKConfig:
        """Of the whole SAE."""
        return self.sae.cfg

    @torch.no_grad()
    def _kept(self, values: Float[Tensor, "batch own"], k: int) -> Bool[Tensor, "batch own"]:
        """Which of this rank's values above 0 are among each row's k largest of all ranks.

        Given each rank's own k largest, or all it has: the k largest of all are among them.
        """
        width, own = min(k, self._widest), values.shape[1]
        everyone = self.ranks.gather(F.pad(values, (0, width - own)))
        row = everyone.transpose(0, 1).flatten(1)
        _, chosen = kernels.topk(row, min(k, row.shape[1]))
        kept = torch.zeros_like(row, dtype=torch.bool).scatter_(1, chosen, True)
        start = width * self.ranks.rank
        return kept[:, start : start + own]

    def _auxk(
        self,
        residual: Float[Tensor, "batch d"],
        centred: Float[Tensor, "batch d"],
        dead: Bool[Tensor, " own"],
        dtype: torch.dtype,
    ) -> Float[Tensor, ""]:
        """As `sae.kinds.auxk.auxk_loss`, over the dead latents of all ranks."""
        sae, k_aux = self.sae, self._cfg.k_aux or max(1, self.sae.d_in // 2)
        n_dead = self.ranks.gather(dead.sum())
        if n_dead.sum() == 0:
            return residual.new_zeros(())
        own = dead.nonzero().squeeze(1)
        acts = kernels.linear(centred, sae.W_enc[:, own], sae.b_enc[own], dtype).relu()
        if n_dead.sum() > k_aux:
            values, places = acts.topk(min(k_aux, len(own)), dim=-1, sorted=False)
            kept = self._kept(values, k_aux)
            acts = torch.zeros_like(acts).scatter(1, places, torch.where(kept, values, 0))
        decoded = kernels.product(acts, sae.W_dec[own], dtype)
        return unexplained(residual, _Sum.apply(decoded, self.ranks))

    def n_dead(self) -> int:
        """Dead latents of all ranks."""
        total = self.tracker.dead.sum()[None]
        self.ranks.add([total])
        return int(total.item())

    def whole(self) -> SAE:
        """The SAE with all its latents, on the CPU; on other ranks than the first this rank's part."""
        parts = {name: self._collected(f"sae.{name}", t) for name, t in self.sae.state_dict().items()}
        if self._frame is None:
            return self.sae
        self._frame.load_state_dict(parts)
        return self._frame


def _moved(sae: SAE, which: slice, device: torch.device) -> SAE:
    """A copy of some of an SAE's latents on a device."""
    part = some_latents(sae, which)
    part.normalization = copy.deepcopy(sae.normalization)
    for name, p in part.named_parameters(recurse=False):
        part.register_parameter(name, nn.Parameter(p.data.clone()))
    return part.to(device)


class _Sum(torch.autograd.Function):
    """The sum over ranks, in place; its gradient, known alike to every rank, is each summand's."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, ranks: Ranks) -> Tensor:
        """The sum."""
        ctx.mark_dirty(t)
        ranks.add([t])
        return t

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Unchanged."""
        return grad, None


class _Shared(torch.autograd.Function):
    """What every rank uses for its own part; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, ranks: Ranks) -> Tensor:
        """Unchanged."""
        ctx.ranks = ranks
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The sum over ranks."""
        total = grad.clone()
        ctx.ranks.add([total])
        return total, None
