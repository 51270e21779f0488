"""The training loop of one SAE.

Weights, optimizer and data order are functions of the seed and the rows seen alone: a run that
continues from a checkpoint ends with the same bytes as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from thoughtlens.acts.store.view import View, ViewBatch
from thoughtlens.core import CheckpointError, DataError, Progress
from thoughtlens.numerics.kernels.memory import keep_freed_memory
from thoughtlens.sae.base import SAE, Batch, LossTerms, counts
from thoughtlens.sae.fit.adam import Adam
from thoughtlens.sae.fit.checkpoint import Checkpoints
from thoughtlens.sae.fit.dead import DeadTracker
from thoughtlens.sae.fit.resample import UNTIL, resample
from thoughtlens.sae.fit.schedule import lr_at
from thoughtlens.sae.fit.track import Means, Row, tell
from thoughtlens.sae.formats.files import write_tensors
from thoughtlens.sae.normalization import Cell
from thoughtlens.sae.rows.sources import Joined, JoinedView


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
        """Learning rate of a step, counted from 0."""
        return lr_at(step, self.n_steps, self.lr, self.warmup, self.decay)

    def clipped(self, length: float) -> float:
        """What gradients of that length together are multiplied by."""
        return self.grad_clip / (length + 1e-6) if 0 < self.grad_clip < length else 1.0


class Trainer:
    """An SAE, its optimizer and its counters: what a step changes and a checkpoint holds."""

    share: tuple[int, int] = (0, 1)
    """(i, n): a step takes the rows i, i + n, ... of the batch, as in `View.batches`."""

    def __init__(self, sae: SAE, settings: Settings):
        keep_freed_memory()
        self.sae, self.settings = sae, settings
        self.optimizer = Adam(self.updated(), settings.betas, settings.lazy)
        self.tracker = DeadTracker(sae.d_sae, settings.dead_after_rows, sae.W_enc.device)
        self.step_idx = 0
        self.means = Means()
        self.curve: list[Row] = []
        self.facts: dict[str, Any] | None = None

    @property
    def rows_seen(self) -> int:
        """Rows that have gone through `step`."""
        return self.step_idx * self.settings.batch_size

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
        s, sae = self.settings, self.sae
        progress = self.step_idx / s.n_steps
        batch = Batch(x, y, cell, dead=self.tracker.dead, labels=labels, progress=progress)
        loss = sae.loss(batch)
        self.optimizer.zero_grad()
        loss.total.backward()
        norm = self.optimizer.norm(loss.idle)
        total, length = torch.stack([loss.total.detach(), norm]).tolist()
        if not math.isfinite(total + length):
            raise FloatingPointError(f"loss {total}, gradient norm {length}")
        lr, factor = s.lr_at(self.step_idx), s.clipped(length)
        self.optimizer.step(lr, factor=factor, unit=True, idle=loss.idle)
        sae.after_step(batch, loss)
        self._count(loss, len(x))
        if s.resample_every and self.rows_seen % s.resample_every < s.batch_size and progress < UNTIL:
            self._resample(batch)
        return loss

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

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `step` depends on, as (tensors, JSON table)."""
        tensors = {f"sae.{name}": t for name, t in self.sae.state_dict().items()}
        for name, parameter in self.optimizer.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{name}.{key}"] = value
        tensors["silent_rows"] = self.tracker.silent_rows
        table = {"step": self.step_idx, "curve": self.curve, "n": self.means.n, "sums": self.means.sums}
        return tensors, table

    def restore(self, tensors: dict[str, Tensor], table: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        device = self.sae.W_enc.device
        try:
            self.sae.load_state_dict({n: tensors[f"sae.{n}"] for n in self.sae.state_dict()})
            for name, parameter in self.optimizer.parameters.items():
                for key, value in self.optimizer.state[parameter].items():
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

    def _count(self, loss: LossTerms, n_rows: int) -> None:
        fired = counts(loss.acts, self.sae.d_sae) if loss.fired is None else loss.fired
        self.tracker.update(fired, n_rows)
        numbers = {"loss": loss.total, **{f"loss_{name}": term for name, term in loss.terms.items()}}
        numbers["l0_train"] = fired.sum() / n_rows
        values = torch.stack([number.detach().double() for number in numbers.values()]).tolist()
        self.means.add(dict(zip(numbers, values, strict=True)))
        self.step_idx += 1


def fit(
    trainer: Trainer,
    source: View | JoinedView,
    evaluate: Callable[[SAE], Row],
    checkpoints: Checkpoints,
    bar: Progress,
    offending: Path,
) -> list[Row]:
    """Train to the end and return the curve.

    Args:
        trainer: New, or restored from `checkpoints`.
        source: Vectors to train on.
        evaluate: Measures the SAE; its row is added to the curve.
        checkpoints: Where the state goes every `checkpoint_every_s` seconds.
        bar: Told of every batch.
        offending: File for the batch that makes the loss NaN or Inf.

    Raises:
        DataError: the loss became NaN or Inf.
    """
    s = trainer.settings
    saved = time.monotonic()
    stream = source.batches(
        s.batch_size, seed=s.seed, start=trainer.rows_seen, epochs=None, share=trainer.share
    )
    for batch in islice(stream, s.n_steps - trainer.step_idx):
        try:
            trainer.step(**inputs(batch, trainer.sae, source.cells))
        except FloatingPointError as error:
            stop(trainer, batch, checkpoints, offending, str(error))
        if trainer.step_idx % s.eval_every == 0 or trainer.step_idx == s.n_steps:
            trainer.record(measured(trainer, evaluate))
        bar.advance(s.batch_size, note(trainer.curve))
        if trainer.checkpoint_due(time.monotonic() - saved):
            checkpoints.save(trainer.rows_seen, *trainer.state())
            saved = time.monotonic()
    return trainer.curve


def inputs(batch: ViewBatch, sae: SAE, cells: list[Cell]) -> dict[str, Any]:
    """What `Trainer.step` takes, on the SAE's device."""
    values = {"x": batch.x, "cell": sae.cell_index(cells, batch.cell)}
    if isinstance(batch, Joined):
        values |= {"y": batch.y, "labels": batch.labels}
    return {name: None if value is None else value.to(sae.W_enc.device) for name, value in values.items()}


def measured(trainer: Trainer, evaluate: Callable[[SAE], Row]) -> Row:
    s = trainer.settings
    return {
        "rows_seen": trainer.rows_seen,
        "lr": s.lr_at(trainer.step_idx - 1),
        **trainer.means.take(),
        "n_dead": trainer.n_dead(),
        **evaluate(trainer.whole()),
    }


def note(curve: list[Row]) -> str:
    if not curve:
        return ""
    fvu = curve[-1].get("fvu_validation")
    fvu = curve[-1].get("fvu_train") if fvu is None else fvu
    return f"FVU {fvu:.3f}, {curve[-1]['n_dead']} dead" if fvu is not None else ""


def stop(trainer: Trainer, batch: ViewBatch, checkpoints: Checkpoints, offending: Path, what: str) -> None:
    """Keep the batch and, where it is finite, the state that it met; DataError says where they are."""
    write_tensors({"x": batch.x, "idx": torch.from_numpy(batch.idx)}, offending)
    tensors, table = trainer.state()
    if all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        checkpoints.save(trainer.rows_seen, tensors, table)
    last = checkpoints.newest() or "none"
    raise DataError(
        f"Training stopped after {trainer.rows_seen:,} vectors: {what}. The batch is in {offending}, last "
        f"good checkpoint: {last}. Look for extreme values in the batch, or train with a lower train.lr (now "
        f"{trainer.settings.lr:g}) into another --out"
    ) from None
