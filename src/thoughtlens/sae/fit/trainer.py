"""What a training step does: to one SAE, and to a stack of them at once.

Weights, optimizer and data order are functions of the seed and the rows seen alone: a run that
continues from a checkpoint ends with the same bytes as one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.core import CheckpointError, Json
from thoughtlens.numerics import keep_freed_memory
from thoughtlens.sae.fit.adam import Adam, StackAdam
from thoughtlens.sae.fit.resample import UNTIL, resample
from thoughtlens.sae.fit.track import Means, Row, tell
from thoughtlens.sae.kinds.base import SAE, Batch, LossTerms, counts
from thoughtlens.sae.kinds.stack import Stack


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The numbers of a run, all decided."""

    n_steps: int
    batch_size: int
    lr: float
    warmup: float
    decay: float
    grad_clip: float
    dead_after_rows: int
    eval_every: int
    """Steps between measurements; one more comes at the end."""
    checkpoint_every_s: float
    seed: int
    resample_every: int | None = None
    """Rows between resamplings of dead latents; None: never."""
    betas: tuple[float, float] = (0.9, 0.999)
    lazy: bool = False
    """Whether the optimizer leaves latents alone that had no part in a batch, an approximation."""

    def lr_at(self, step: int) -> float:
        """Learning rate of step `step` (from 0): a linear rise over the first `warmup` share of the run, then
        `lr`, then a linear fall over the last `decay` share, to `lr / n` in the last of n falling steps.
        """
        rise = round(self.warmup * self.n_steps)
        fall = round(self.decay * self.n_steps)
        return self.lr * min(1.0, (step + 1) / max(rise, 1), (self.n_steps - step) / max(fall, 1))

    def clipped(self, length: float) -> float:
        """What gradients of that length together are multiplied by."""
        return self.grad_clip / (length + 1e-6) if 0 < self.grad_clip < length else 1.0


@dataclass
class DeadTracker:
    """Rows since each latent last fired; dead after `dead_after_rows` of them.

    Counted in rows seen, not in steps, so that batch size does not change what dead means.
    """

    silent_rows: Int[Tensor, "*members d_sae"]
    dead_after_rows: int | Int[Tensor, "members 1"]

    def update(self, fired: Int[Tensor, "*members d_sae"], n_rows: int | Int[Tensor, "members 1"]) -> None:
        """Count a batch of `n_rows` rows on `fired` of which each latent fired."""
        self.silent_rows += n_rows
        self.silent_rows.masked_fill_(fired > 0, 0)  # by index a GPU would be waited for

    @property
    def dead(self) -> Bool[Tensor, "*members d_sae"]:
        """Latents silent for `dead_after_rows` rows or more."""
        return self.silent_rows >= self.dead_after_rows


@dataclass(frozen=True)
class Numbers:
    """What a step of one SAE is judged by, on the host."""

    loss: dict[str, float]
    """`loss`, and its terms as `loss_*`."""
    norm: float
    """Length of the gradient."""
    n_fired: float
    """Activations of the batch that are not 0."""

    @classmethod
    def read(
        cls,
        total: Float[Tensor, "*members"],
        terms: Mapping[str, Float[Tensor, "*members"]],
        norms: Float[Tensor, " members"],
        fired: Int[Tensor, "*members d_sae"],
    ) -> list[Numbers]:
        """Those of each member; a GPU is waited for once."""
        losses = {"loss": total, **{f"loss_{name}": term for name, term in terms.items()}}
        values = (*losses.values(), norms, fired.sum(-1))
        columns = torch.stack([v.detach().double().reshape(-1) for v in values]).T.tolist()
        return [
            cls(dict(zip(losses, one, strict=True)), norm=norm, n_fired=count)
            for *one, norm, count in columns
        ]

    @property
    def failure(self) -> str | None:
        """What is not finite."""
        if math.isfinite(self.loss["loss"] + self.norm):
            return None
        return f"loss {self.loss['loss']}, gradient norm {self.norm}"


class Trainer:
    """An SAE, its optimizer and its counters: what a step changes and a checkpoint holds."""

    share: tuple[int, int] = (0, 1)
    """(i, n): a step takes the rows i, i + n, ... of the batch, as in `View.batches`."""

    def __init__(self, sae: SAE, settings: Settings):
        keep_freed_memory()
        self.sae, self.settings = sae, settings
        self.optimizer = Adam(self.updated(), settings.betas, settings.lazy)
        silent = torch.zeros(sae.d_sae, dtype=torch.long, device=sae.W_enc.device)
        self.tracker = DeadTracker(silent, settings.dead_after_rows)
        self.step_idx = 0
        self.means = Means()
        self.curve: list[Row] = []
        self.facts: Json | None = None

    @property
    def rows_seen(self) -> int:
        """Rows that have gone through `step`."""
        return self.step_idx * self.settings.batch_size

    @property
    def progress(self) -> float:
        """Share of the steps that are done."""
        return self.step_idx / self.settings.n_steps

    def loss(self, batch: Batch) -> LossTerms:
        """What a step makes smaller."""
        return self.sae.loss(batch)

    def step(
        self,
        x: Tensor,
        cell: Int[Tensor, " batch"] | None = None,
        y: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> LossTerms:
        """Forward, backward, optimizer and bookkeeping on a batch of raw activations.

        Raises:
            FloatingPointError: loss or gradient is not finite; weights and counters are untouched.
        """
        s, sae, progress = self.settings, self.sae, self.progress
        batch = Batch(x, y, cell, dead=self.tracker.dead, labels=labels, progress=progress)
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.total.backward()
        fired = counts(loss.acts, sae.d_sae) if loss.fired is None else loss.fired
        norms = self.optimizer.norms(None if loss.idle is None else loss.idle[None])
        (numbers,) = Numbers.read(loss.total, loss.terms, norms, fired)
        self.advance(numbers, fired, loss.idle, len(x))
        sae.after_step(batch, loss)
        if s.resample_every and self.rows_seen % s.resample_every < s.batch_size and progress < UNTIL:
            self._resample(batch)
        return loss

    def advance(
        self,
        numbers: Numbers,
        fired: Int[Tensor, " d_sae"],
        idle: Bool[Tensor, " d_sae"] | None,
        n_rows: int,
    ) -> None:
        """Clip, step and count, once the gradients are there.

        Raises:
            FloatingPointError: as `step`.
        """
        if numbers.failure is not None:
            raise FloatingPointError(numbers.failure)
        lr, factor = self.rate(numbers)
        self.optimizer.step([lr], [factor], None if idle is None else idle[None])
        self.tracker.update(fired, n_rows)
        self.count(numbers, n_rows)

    def rate(self, numbers: Numbers) -> tuple[float | None, float]:
        """Learning rate of the next step, and what its gradients are multiplied by; None: not to be done."""
        if numbers.failure is not None:
            return None, 1.0
        return self.settings.lr_at(self.step_idx), self.settings.clipped(numbers.norm)

    def count(self, numbers: Numbers, n_rows: int) -> None:
        """A step is done."""
        self.means.add({**numbers.loss, "l0_train": numbers.n_fired / n_rows})
        self.step_idx += 1

    def updated(self) -> SAE:
        """The SAE whose parameters are updated here."""
        return self.sae

    def whole(self) -> SAE:
        """The SAE as it is measured and saved."""
        return self.sae

    def record(self, row: Row) -> None:
        """Add a measurement to the curve; those who follow are told, where `facts` say of what."""
        self.curve.append(row)
        if self.facts is not None:
            tell(self.facts, self.curve)

    def n_dead(self) -> int:
        """Latents that count as dead now."""
        return int(self.tracker.dead.sum())

    def checkpoint_due(self, elapsed_s: float) -> bool:
        """Whether it is time for a checkpoint, so long after the last one."""
        return elapsed_s >= self.settings.checkpoint_every_s

    def state(self) -> tuple[dict[str, Tensor], Json]:
        """Everything that `step` depends on, as (tensors, JSON table)."""
        tensors = {f"sae.{name}": t for name, t in self.sae.state_dict().items()}
        for name, moments in self.optimizer.state.items():
            tensors |= {f"adam.{name}.{key}": value for key, value in moments.items()}
        tensors["silent_rows"] = self.tracker.silent_rows
        table = {"step": self.step_idx, "curve": self.curve, "n": self.means.n, "sums": self.means.sums}
        return tensors, table

    def restore(self, tensors: dict[str, Tensor], table: Json) -> None:
        """Continue from what `state` returned."""
        device = self.sae.W_enc.device
        try:
            self.sae.load_state_dict({n: tensors[f"sae.{n}"] for n in self.sae.state_dict()})
            for name, moments in self.optimizer.state.items():
                for key, value in moments.items():
                    value.copy_(tensors[f"adam.{name}.{key}"])
            self.tracker.silent_rows = tensors["silent_rows"].to(device, copy=True)
            self.step_idx, self.curve = table["step"], list(table["curve"])
            self.means.n, self.means.sums = table["n"], dict(table["sums"])
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"The checkpoint does not fit this SAE: {error}") from None

    def _resample(self, batch: Batch) -> None:
        """Give dead latents a new start; the draw is a function of the seed and the step."""
        draw = np.random.SeedSequence((self.settings.seed, self.step_idx)).generate_state(1)
        generator = torch.Generator().manual_seed(int(draw[0]))
        dead = self.tracker.dead
        if resample(self.sae, self.optimizer, batch, dead, generator):
            self.tracker.silent_rows[dead] = 0


class StackTrainer:
    """The trainers of a stack's members, stepping as one; their state stays where it was.

    A single SAE has `Trainer.step` instead, whose loss is its kind's own: only two kinds have one with a
    member axis, and the kernels of the others, which skip what is 0, take one SAE. All that follows the
    gradients is the same code. So that sums do not depend on who else is there, members of a stack keep to
    it until the last one ends.

    Args:
        trainers: Of SAEs that share `stack_key`, and of one batch size.
        ordered: As in `Stack`.
    """

    def __init__(self, trainers: Sequence[Trainer], ordered: bool | None = None):
        self.trainers = list(trainers)
        self.stack = Stack([t.sae for t in self.trainers], ordered)
        self.optimizer = StackAdam(self.stack, [t.optimizer for t in self.trainers])
        silent = torch.stack([t.tracker.silent_rows for t in self.trainers])
        for trainer, part in zip(self.trainers, silent, strict=True):
            trainer.tracker.silent_rows = part
        limits = [t.settings.dead_after_rows for t in self.trainers]
        self.tracker = DeadTracker(silent, torch.tensor(limits, device=silent.device)[:, None])

    def step(
        self, x: Float[Tensor, "members batch d_in"], cell: Sequence[Int[Tensor, " batch"] | None]
    ) -> list[str | None]:
        """As `Trainer.step`, for every member on its own rows.

        Returns:
            For each member None, or what was not finite; weights and counters of such a one are untouched.
        """
        loss = self.stack.loss(x, cell, self.tracker.dead, [t.progress for t in self.trainers])
        self.optimizer.zero_grad()
        loss.total.sum().backward()
        numbers = Numbers.read(loss.total, loss.terms, self.optimizer.norms(loss.idle), loss.fired)
        rates = [trainer.rate(one) for trainer, one in zip(self.trainers, numbers, strict=True)]
        self.optimizer.step([lr for lr, _ in rates], [factor for _, factor in rates], loss.idle)
        failures, n_rows = [one.failure for one in numbers], x.shape[1]
        if any(failures):
            sound = torch.tensor([[why is None] for why in failures], device=x.device)
            self.tracker.update(loss.fired * sound, n_rows * sound)
        else:
            self.tracker.update(loss.fired, n_rows)
        for trainer, one in zip(self.trainers, numbers, strict=True):
            if one.failure is None:
                trainer.count(one, n_rows)
        return failures
