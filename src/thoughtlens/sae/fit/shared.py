"""What all ways of sharing one SAE over processes have in common."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from thoughtlens.core import ConfigError, Json, Ranks
from thoughtlens.sae.fit.trainer import Numbers, Settings, Trainer
from thoughtlens.sae.kinds.base import SAE


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

    def state(self) -> tuple[dict[str, Tensor], Json]:
        """As `Trainer.state`, of the whole SAE; all take part, and only the first rank gets the tensors."""
        tensors, table = super().state()
        whole = {name: self._collected(name, t) for name, t in tensors.items()}
        return {name: t for name, t in whole.items() if t is not None}, table

    def restore(self, tensors: dict[str, Tensor], table: Json) -> None:
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
            idle: As in `Adam.norms`, of that share.
        """
        losses = {"loss": sum(terms.values()), **{f"loss_{name}": value for name, value in terms.items()}}
        self.advance(Numbers(losses, *self._sums(idle, n_fired)), fired, idle, self.settings.batch_size)

    def _sums(self, idle: Bool[Tensor, " own"], n_fired: Int[Tensor, ""]) -> tuple[float, float]:
        """Length of the whole gradient, what all ranks hold counted once; and activations on the batch."""
        alike = [p for name, p in self.optimizer.parameters.items() if name not in self.sae.latent_axis]
        grads = [p.grad for p in alike]
        for p in alike:
            p.grad = None
        sums = torch.stack([self.optimizer.norms(idle[None])[0].double().square(), n_fired.double()])
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


def even_bounds(n: int, n_shares: int) -> list[int]:
    """Where equal shares of n latents begin, and the end.

    Raises:
        ConfigError: fewer latents than shares.
    """
    if n < n_shares:
        raise ConfigError(f"{n} latents cannot be spread over {n_shares} ranks; start fewer")
    return [n * i // n_shares for i in range(n_shares + 1)]


def some_latents(sae: SAE, which: slice | Int[Tensor, " n"]) -> SAE:
    """Some of an SAE's latents, a slice over the same memory; all else is the same SAE's."""
    part = copy.copy(sae)
    part._modules = dict(sae._modules)
    part._parameters = {}
    for name, p in sae.named_parameters(recurse=False):
        axis = sae.latent_axis.get(name)
        cut = p if axis is None else nn.Parameter(p.data[(slice(None),) * axis + (which,)])
        part.register_parameter(name, cut)
    part.d_sae = len(part.b_enc)
    return part
