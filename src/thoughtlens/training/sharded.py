"""A TopK SAE whose latents are spread over ranks, for dictionaries that do not fit one device.

Rank r holds the latents from `bounds[r]` to `bounds[r + 1]`: columns of W_enc, rows of W_dec, their moments
and counters. All see all rows. Of each row the k largest pre-activations of all ranks fire; the ranks'
parts of the reconstruction are added up. b_dec is on every rank, and alike.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens import kernels
from thoughtlens.errors import ConfigError
from thoughtlens.sae.base import SAE, Batch, LossTerms, SparseActs, counts
from thoughtlens.sae.topk import TopKSAE
from thoughtlens.training.loop import Settings, Trainer
from thoughtlens.training.parallel import DataParallelTrainer, Ranks


class LatentParallelTrainer(DataParallelTrainer):
    """Training of a TopK SAE whose latents are spread over the ranks; every rank gets the whole batch.

    Loss, gradients and weights are those of one process, up to the order of sums. `state` and `whole`
    bring everything together on every rank's host memory: checkpoints are those of one process.

    Args:
        sae: The whole SAE, the same on every rank, on the CPU; each rank moves its part to `device`.
        settings: Of the whole run.
        ranks: Who takes part.
        device: Of this rank's part.

    Raises:
        ConfigError: another kind than topk, resampling, or fewer latents than ranks.
    """

    def __init__(self, sae: SAE, settings: Settings, ranks: Ranks, device: torch.device):
        if not isinstance(sae, TopKSAE) or settings.resample_every is not None:
            raise ConfigError(
                f"train.parallel = latents: expected kind = topk without resampling, got {sae.kind}; "
                f"train it with train.parallel=data"
            )
        if sae.d_sae < ranks.size:
            raise ConfigError(f"{sae.d_sae} latents cannot be spread over {ranks.size} ranks; start fewer")
        self._frame = sae
        bounds = [sae.d_sae * r // ranks.size for r in range(ranks.size + 1)]
        self.first, self.last = bounds[ranks.rank], bounds[ranks.rank + 1]
        super().__init__(_part(sae, self.first, self.last).to(device), settings, ranks)
        self.share = (0, 1)

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
        fired = counts(loss.acts, self.sae.d_sae)
        self._update({name: term.item() for name, term in loss.terms.items()}, fired)
        return loss

    def loss(self, batch: Batch) -> LossTerms:
        """As `TopKSAE.loss`, the whole loss on every rank; gradients are those of this rank's latents."""
        sae, cfg = self.sae, self._frame.cfg
        z = sae.normalize(batch.x, batch.cell)
        centred = z - _Shared.apply(sae.b_dec, self.ranks) if cfg.pre_bias else z
        pre_acts = kernels.linear(centred, sae.W_enc, sae.b_enc, sae.compute_dtype or sae.W_enc.dtype)
        values, indices = self._largest(pre_acts, cfg.k)
        decoded = _Sum.apply(kernels.decode(values, indices, sae.W_dec), self.ranks)
        residual = z - (decoded + sae.b_dec)
        terms = {"reconstruction": residual.square().mean()}
        if cfg.auxk > 0:
            k_aux = cfg.k_aux or max(1, sae.d_in // 2)
            assert batch.dead is not None
            terms["auxk"] = cfg.auxk * self._auxk(residual.detach(), pre_acts, batch.dead, k_aux)
        return LossTerms(terms, SparseActs(values, indices))

    def _largest(
        self, pre_acts: Float[Tensor, "batch own"], k: int
    ) -> tuple[Float[Tensor, "batch k_own"], Int[Tensor, "batch k_own"]]:
        """Those of this rank's latents that are among each row's k largest of all ranks, others 0.

        Each rank's own k largest are compared: the k largest of all are among them.
        """
        values, indices = kernels.topk(pre_acts, min(k, pre_acts.shape[1]))
        all_values = self.ranks.gather(values, 1)
        kept = torch.zeros_like(all_values, dtype=torch.bool)
        kept.scatter_(1, all_values.topk(min(k, all_values.shape[1]), dim=1).indices, True)
        width = torch.zeros(self.ranks.size, dtype=torch.long)
        width[self.ranks.rank] = values.shape[1]
        self.ranks.add([width])
        start = int(width[: self.ranks.rank].sum())
        return torch.where(kept[:, start : start + values.shape[1]], values, 0), indices

    def _auxk(
        self,
        target: Float[Tensor, "batch d"],
        pre_acts: Float[Tensor, "batch own"],
        dead: Bool[Tensor, " own"],
        k_aux: int,
    ) -> Float[Tensor, ""]:
        """As `auxk_loss`, over the dead latents of all ranks."""
        n_dead = dead.sum()[None]
        self.ranks.add([n_dead])
        if n_dead.item() == 0:
            return target.new_zeros(())
        own = dead.nonzero().squeeze(1)
        padded = torch.cat([pre_acts[:, own], pre_acts.new_zeros(len(pre_acts), 1)], dim=1)
        values, kept = self._largest(padded, k_aux)
        rows = torch.cat([self.sae.W_dec[own], self.sae.W_dec.new_zeros(1, self.sae.d_out)])
        error = target - _Sum.apply(kernels.decode(values, kept, rows), self.ranks)
        scale = (target - target.mean(0)).square().sum()
        return error.square().sum() / scale.clamp_min(torch.finfo(scale.dtype).tiny)

    def grad_norm(self) -> float:
        """Length of the whole gradient; b_dec's counts once."""
        shared = self.sae.b_dec.grad
        assert shared is not None
        square = self.optimizer.norm().square() - shared.square().sum()
        self.ranks.add([square])
        return (square.clamp_min(0) + shared.square().sum()).sqrt().item()

    def n_fired(self, fired: Int[Tensor, " own"]) -> float:
        """Activations on the batch, of all ranks."""
        total = fired.sum()[None]
        self.ranks.add([total])
        return total.item()

    def n_dead(self) -> int:
        """Dead latents of all ranks."""
        total = self.tracker.dead.sum()[None]
        self.ranks.add([total])
        return int(total.item())

    def checkpoint_due(self, elapsed_s: float) -> bool:
        """Whether it is on the first rank: all take part in a checkpoint."""
        due = torch.tensor([float(self.ranks.first and super().checkpoint_due(elapsed_s))])
        self.ranks.add([due])
        return bool(due.item())

    def whole(self) -> SAE:
        """The SAE with all its latents, on the CPU."""
        tensors = self._gathered()[0]
        self._frame.load_state_dict({n: tensors[f"sae.{n}"] for n in self._frame.state_dict()})
        return self._frame

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As `Trainer.state`, of the whole SAE."""
        return self._gathered()

    def restore(self, tensors: dict[str, Tensor], table: dict[str, Any]) -> None:
        """As `Trainer.restore`, from the state of a whole SAE."""
        super().restore({n: self._cut(n, t) for n, t in tensors.items()}, table)

    def _gathered(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, table = Trainer.state(self)
        axes = {name: self._axis(name, t) for name, t in tensors.items()}
        return {
            name: (t if (axis := axes[name]) is None else self.ranks.gather(t, axis)).cpu()
            for name, t in tensors.items()
        }, table

    def _cut(self, name: str, t: Tensor) -> Tensor:
        axis = self._axis(name, t)
        return t if axis is None else t.narrow(axis, self.first, self.last - self.first).contiguous()

    def _axis(self, name: str, t: Tensor) -> int | None:
        """The axis of a tensor of the state that counts latents."""
        if name == "silent_rows":
            return 0
        kind, _, rest = name.partition(".")
        parameter, _, key = rest.partition(".") if kind == "adam" else (rest, "", "")
        if key == "step" or parameter not in self.sae.latent_axis:
            return None
        if key == "last":
            return 0 if parameter in ("W_enc", "W_dec") else None
        return self.sae.latent_axis[parameter]


def _part(sae: TopKSAE, first: int, last: int) -> TopKSAE:
    """An SAE of some of the latents of another."""
    cfg = sae.cfg.model_copy(update={"d_sae": last - first, "k": min(sae.cfg.k, last - first)})
    part = TopKSAE(cfg, sae.d_in, sae.d_out)
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            whole, axis = sae.get_parameter(name), sae.latent_axis.get(name)
            parameter.copy_(whole if axis is None else whole.narrow(axis, first, last - first))
    part.normalization = copy.deepcopy(sae.normalization)
    part.compute_dtype, part.hook_names = sae.compute_dtype, sae.hook_names
    return part


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient, known alike to every rank, is each summand's."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, ranks: Ranks) -> Tensor:
        """The sum."""
        total = t.clone()
        ranks.add([total])
        return total

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
