"""Data parallel training of one SAE: each process has its rows of the batch."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thoughtlens.core import ConfigError, Ranks
from thoughtlens.sae.fit.shared import SharedTrainer, even_bounds, some_latents
from thoughtlens.sae.fit.trainer import Settings
from thoughtlens.sae.kinds.base import SAE, Batch, LossTerms, counts

ADDITIVE = ("topk", "relu", "gated")
"""Kinds whose loss is a mean over rows (but for auxk, which is brought to the whole batch's scale)."""


class DataParallelTrainer(SharedTrainer):
    """A whole SAE on every rank, each with its rows of the batch.

    The sum of the ranks' losses is the loss of one process on the whole batch, and so are, up to the order
    of sums, gradients and weights. Each rank gets the gradients of its share of the latents from all others,
    and sends them the new weights (ZeRO, stage 1: Rajbhandari et al. 2020, arXiv:1910.02054). Latents without
    a part in the batch are not sent.

    Args:
        sae: The same on every rank.
        settings: `batch_size` counts the rows of all ranks together.
        ranks: Who takes part.

    Raises:
        ConfigError: a kind whose loss is not a mean over rows, resampling, which looks at one batch, or fewer
            latents than ranks.
    """

    def __init__(self, sae: SAE, settings: Settings, ranks: Ranks):
        if sae.kind not in ADDITIVE or settings.resample_every is not None:
            what = f"kind = {sae.kind}" if sae.kind not in ADDITIVE else "resample_every"
            raise ConfigError(
                f"{what} cannot be trained by {ranks.size} ranks at once: expected "
                f"{', '.join(ADDITIVE)}, without resampling. Train it in one process, or several SAEs with "
                f"train.parallel=members"
            )
        super().__init__(sae, settings, ranks, even_bounds(sae.d_sae, ranks.size))
        self.share = (ranks.rank, ranks.size)
        for parameter in sae.parameters():
            parameter.grad_dtype = None  # as in Adam, which has parameters of its own here

    def updated(self) -> SAE:
        """This rank's share of the latents."""
        return some_latents(self.sae, self.own)

    def step(
        self,
        x: Tensor,
        cell: Int[Tensor, " batch"] | None = None,
        y: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> LossTerms:
        """As `Trainer.step`, on this rank's rows."""
        s, sae = self.settings, self.sae
        batch = Batch(x, y, cell, dead=self.tracker.dead, labels=labels, progress=self.step_idx / s.n_steps)
        loss = sae.loss(batch)
        factors = {name: len(x) / s.batch_size for name in loss.terms}
        if "auxk" in factors and bool(self.tracker.dead.any()):
            assert loss.residual is not None
            factors["auxk"] = self._spread_share(loss.residual)
        terms = {name: factors[name] * term for name, term in loss.terms.items()}
        sae.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        totals, fired, idle, narrow = self._totals(terms, loss)
        self._share_gradients(~idle, narrow)
        self._update(totals, fired, fired[self.own].sum(), idle[self.own])
        self._share_weights()
        return loss

    def _totals(
        self, terms: dict[str, Tensor], loss: LossTerms
    ) -> tuple[dict[str, float], Int[Tensor, " d_sae"], Bool[Tensor, " d_sae"], list[bool]]:
        """Everything small, summed over the ranks in one message.

        Returns:
            The whole batch's terms; on how many of its rows each latent fires; who is idle on all ranks; and
            which of the latents' gradients all have in bfloat16. Gradients of what belongs to no latent go to
            the parameters.
        """
        sae, latent = self.sae, self._latent
        fired = counts(loss.acts, sae.d_sae) if loss.fired is None else loss.fired
        busy = torch.ones_like(fired) if loss.idle is None else ~loss.idle
        narrow = fired.new_tensor([_grad(p).dtype == torch.bfloat16 for p in latent.values()])
        alike = [p for name, p in sae.named_parameters() if name not in latent]
        parts = [torch.stack([t.detach() for t in terms.values()]), fired, busy, narrow, *map(_grad, alike)]
        message = torch.cat([t.double().flatten() for t in parts])
        self.ranks.add([message])
        sums, fired, busy, narrow, *grads = message.split([t.numel() for t in parts])
        for p, grad in zip(alike, grads, strict=True):
            p.grad = grad.view_as(p).to(p.dtype)
        return (
            dict(zip(terms, sums.tolist(), strict=True)),
            fired.long(),
            busy == 0,
            [n == self.ranks.size for n in narrow.tolist()],
        )

    @torch.no_grad()
    def _share_gradients(self, busy: Bool[Tensor, " d_sae"], narrow: list[bool]) -> None:
        """The sum of all ranks' gradients of this rank's latents, to the optimizer's parameters.

        They travel in bfloat16 where all ranks have them so, else in the parameters' dtype, and are added up
        in that.
        """
        ranks, others = self.ranks, [r for r in range(self.ranks.size) if r != self.ranks.rank]
        which = [busy[share].nonzero().squeeze(1) for share in self._shares]
        sent: list[list[Tensor]] = [[] for _ in which]
        received: list[list[Tensor]] = [[] for _ in which]
        totals: list[Tensor] = []
        for (name, p), small in zip(self._latent.items(), narrow, strict=True):
            grad, p.grad = _grad(p).movedim(self.sae.latent_axis[name], 0), None
            dtype = torch.bfloat16 if small else p.dtype
            totals.append(grad[self.own].to(p.dtype))
            for peer in others:
                sent[peer].append(_some(grad[self._shares[peer]], which[peer]).to(dtype).contiguous())
                shape = (len(which[ranks.rank]), *grad.shape[1:])
                received[peer].append(torch.empty(shape, dtype=dtype, device=grad.device))
        ranks.swap(sent, received)
        for peer in others:
            for total, part in zip(totals, received[peer], strict=True):
                _add_rows(total, which[ranks.rank], part.to(total.dtype))
        for name, total in zip(self._latent, totals, strict=True):
            self.optimizer.parameters[name].grad = total.movedim(0, self.sae.latent_axis[name])

    def _share_weights(self) -> None:
        """Every rank's new weights to all."""
        rows = [p.data.movedim(self.sae.latent_axis[name], 0) for name, p in self._latent.items()]
        mine = [t[self.own] for t in rows]
        self.ranks.swap([mine for _ in self._shares], [[t[share] for t in rows] for share in self._shares])

    @property
    def _shares(self) -> list[slice]:
        """Each rank's latents."""
        return [slice(first, last) for first, last in pairwise(self.bounds)]

    @property
    def _latent(self) -> dict[str, nn.Parameter]:
        """The parameters that have a slice for each latent."""
        return {name: p for name, p in self.sae.named_parameters() if name in self.sae.latent_axis}

    @torch.no_grad()
    def _spread_share(self, residual: Float[Tensor, "batch d_out"]) -> float:
        """The scale of this rank's auxk term over that of the whole batch: a term is error / scale.

        The whole's spread is that inside the ranks' parts, and that of their means.
        """
        n, mean = len(residual), residual.mean(0)
        own, mean = (residual - mean).square().sum().double(), mean.double()
        message = torch.cat([own[None], n * mean.square().sum()[None], own.new_tensor([n]), n * mean])
        self.ranks.add([message])
        inside, means, rows = message[:3]
        whole = inside + means - message[3:].square().sum() / rows
        return (own / whole.clamp_min(torch.finfo(torch.float64).tiny)).item()


def _grad(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


def _some(rows: Tensor, which: Int[Tensor, " n"]) -> Tensor:
    return rows if len(which) == len(rows) else rows[which]


def _add_rows(rows: Tensor, which: Int[Tensor, " n"], more: Tensor) -> None:
    if len(which) == len(rows):
        rows += more
    else:
        rows.index_add_(0, which, more)
