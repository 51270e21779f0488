"""One SAE trained by several processes: what they share of it, and data parallel training."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thoughtlens.errors import ConfigError
from thoughtlens.sae.base import SAE, Batch, LossTerms, counts
from thoughtlens.training.loop import Settings, Trainer
from thoughtlens.training.ranks import Ranks
from thoughtlens.training.schedule import lr_at

ADDITIVE = ("topk", "relu", "gated")
"""Kinds whose loss is a mean over rows (but for auxk, which is brought to the whole batch's scale)."""


class SharedTrainer(Trainer):
    """What all ways of sharing one SAE have in common: rank r updates the latents from `bounds[r]` on.

    Their moments are on that rank alone. What belongs to no latent, such as b_dec, is updated alike on every
    rank. Checkpoints are those of one process.

    Args:
        sae: As a step sees it.
        settings: Of the whole run.
        ranks: Who takes part.
        bounds: One latent more than ranks: where the shares begin, and the last one's end.
    """

    parted: ClassVar[tuple[str, ...]] = ("adam.",)
    """Beginnings of the names in `state` of which a rank has its share only."""

    def __init__(self, sae: SAE, settings: Settings, ranks: Ranks, bounds: list[int]):
        self.ranks, self.bounds = ranks, bounds
        self.own = slice(bounds[ranks.rank], bounds[ranks.rank + 1])
        super().__init__(sae, settings)

    def checkpoint_due(self, elapsed_s: float) -> bool:
        """Whether it is on the first rank: all take part in a checkpoint."""
        due = torch.tensor([float(self.ranks.first and super().checkpoint_due(elapsed_s))])
        self.ranks.add([due])
        return bool(due.item())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As `Trainer.state`, of the whole SAE, on the first rank; all take part, the others get no tensors."""
        tensors, table = super().state()
        whole = {name: self._collected(name, t) for name, t in tensors.items()}
        return {name: t for name, t in whole.items() if t is not None}, table

    def restore(self, tensors: dict[str, Tensor], table: dict[str, Any]) -> None:
        """As `Trainer.restore`, from the state of a whole SAE."""
        super().restore({name: self._cut(name, t) for name, t in tensors.items()}, table)

    def _update(
        self,
        terms: dict[str, float],
        fired: Int[Tensor, " n"],
        n_fired: Int[Tensor, ""],
        idle: Bool[Tensor, " own"],
    ) -> None:
        """Clip, step and count, alike on every rank.

        Args:
            terms: Of the whole batch.
            fired: Of the latents that this rank counts.
            n_fired: Activations of this rank's share of the latents.
            idle: As in `Adam.norm`, of that share.
        """
        s, total = self.settings, sum(terms.values())
        length, n_fired_all = self._sums(idle, n_fired)
        if not math.isfinite(total + length):
            raise FloatingPointError(f"loss {total}, gradient norm {length}")
        factor = s.grad_clip / (length + 1e-6) if 0 < s.grad_clip < length else 1.0
        lr = lr_at(self.step_idx, s.n_steps, s.lr, s.warmup, s.decay)
        self.optimizer.step(lr, factor=factor, unit=True, idle=idle)
        self.tracker.update(fired, s.batch_size)
        numbers = {"loss": total, **{f"loss_{name}": value for name, value in terms.items()}}
        self.means.add(numbers | {"l0_train": n_fired_all / s.batch_size})
        self.step_idx += 1

    def _sums(self, idle: Bool[Tensor, " own"], n_fired: Int[Tensor, ""]) -> tuple[float, float]:
        """Length of the whole gradient, what all ranks hold counted once; and activations on the batch."""
        alike = [p for name, p in self.optimizer.parameters.items() if name not in self.sae.latent_axis]
        grads = [p.grad for p in alike]
        for p in alike:
            p.grad = None
        sums = torch.stack([self.optimizer.norm(idle).double().square(), n_fired.double()])
        self.ranks.add([sums])
        for p, grad in zip(alike, grads, strict=True):
            p.grad = grad
            if grad is not None:
                sums[0] += grad.double().square().sum()
        return math.sqrt(sums[0].item()), sums[1].item()

    def _collected(self, name: str, t: Tensor) -> Tensor | None:
        axis = self._axis(name)
        if axis is None:
            return t.cpu() if self.ranks.first else None
        return self.ranks.collect(t, axis, self.bounds)

    def _cut(self, name: str, t: Tensor) -> Tensor:
        axis = self._axis(name)
        return t if axis is None else t.narrow(axis, self.own.start, self.own.stop - self.own.start)

    def _axis(self, name: str) -> int | None:
        """The axis along which a tensor of the state is shared out."""
        if not name.startswith(self.parted):
            return None
        kind, _, rest = name.partition(".")
        if not rest:
            return 0
        parameter, _, key = rest.partition(".") if kind == "adam" else (rest, "", "")
        if key == "step" or parameter not in self.sae.latent_axis:
            return None
        if key == "last":
            return 0 if self.sae.get_parameter(parameter).ndim > 1 else None
        return self.sae.latent_axis[parameter]


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
        sae, latent = self.sae, self._latent()
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
        ranks, axes = self.ranks, self._latent_axes()
        shares = [slice(*pair) for pair in zip(self.bounds, self.bounds[1:], strict=False)]
        which = [busy[share].nonzero().squeeze(1) for share in shares]
        sent: list[list[Tensor]] = [[] for _ in shares]
        received: list[list[Tensor]] = [[] for _ in shares]
        mine = []
        for (name, p), small in zip(self._latent().items(), narrow, strict=True):
            grad, p.grad = _grad(p).movedim(axes[name], 0), None
            mine.append(grad[self.own].to(p.dtype))
            dtype = torch.bfloat16 if small else p.dtype
            for peer, share in enumerate(shares):
                if peer != ranks.rank:
                    sent[peer].append(_some(grad[share], which[peer]).to(dtype).contiguous())
                    shape = (len(which[ranks.rank]), *grad.shape[1:])
                    received[peer].append(torch.empty(shape, dtype=dtype, device=grad.device))
        ranks.swap(sent, received)
        for parts in (parts for peer, parts in enumerate(received) if peer != ranks.rank):
            for total, part in zip(mine, parts, strict=True):
                _add_rows(total, which[ranks.rank], part.to(total.dtype))
        for name, total in zip(axes, mine, strict=True):
            self.optimizer.parameters[name].grad = total.movedim(0, axes[name])

    def _share_weights(self) -> None:
        """Every rank's new weights to all."""
        axes = self._latent_axes()
        rows = [p.data.movedim(axes[name], 0) for name, p in self._latent().items()]
        shares = [slice(*pair) for pair in zip(self.bounds, self.bounds[1:], strict=False)]
        self.ranks.swap(
            [[t[self.own] for t in rows] for _ in shares], [[t[share] for t in rows] for share in shares]
        )

    def _latent(self) -> dict[str, nn.Parameter]:
        """The parameters that have slices of their own for each latent."""
        return {name: p for name, p in self.sae.named_parameters() if name in self.sae.latent_axis}

    def _latent_axes(self) -> dict[str, int]:
        return {name: self.sae.latent_axis[name] for name in self._latent()}

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


def even_bounds(n: int, n_shares: int) -> list[int]:
    """Where equal shares of n latents begin, and the end.

    Raises:
        ConfigError: fewer latents than shares.
    """
    if n < n_shares:
        raise ConfigError(f"{n} latents cannot be spread over {n_shares} ranks; start fewer")
    return [n * i // n_shares for i in range(n_shares + 1)]


def some_latents(sae: SAE, which: slice) -> SAE:
    """Some of an SAE's latents, over the same memory; all else is the same SAE's."""
    part = copy.copy(sae)
    part.d_sae = which.stop - which.start
    part._modules = dict(sae._modules)
    part._parameters = {}
    for name, p in sae.named_parameters(recurse=False):
        axis = sae.latent_axis.get(name)
        cut = p if axis is None else nn.Parameter(p.data.narrow(axis, which.start, part.d_sae))
        part.register_parameter(name, cut)
    return part


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
