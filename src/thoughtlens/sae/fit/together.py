"""The training loop of a stack: many SAEs a step, each with its own rows, seed, schedule and end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts.store.view import View, ViewBatch
from thoughtlens.core import DataError, Progress
from thoughtlens.sae.base import SAE
from thoughtlens.sae.fit.checkpoint import Checkpoints
from thoughtlens.sae.fit.loop import Trainer, inputs, measured, note, stop
from thoughtlens.sae.fit.stack_adam import StackAdam
from thoughtlens.sae.fit.track import Row
from thoughtlens.sae.kinds.stack import Stack, StackTerms
from thoughtlens.sae.rows.sources import JoinedView


@dataclass(frozen=True)
class Entry:
    """One SAE of a stack, and what is its own."""

    trainer: Trainer
    """New, or restored from `checkpoints`."""
    source: View | JoinedView
    """Vectors to train on."""
    evaluate: Callable[[SAE], Row]
    """Measures the SAE; its row is added to the curve."""
    checkpoints: Checkpoints
    """Where the state goes every `checkpoint_every_s` seconds."""
    offending: Path
    """File for the batch that makes the loss NaN or Inf."""
    finish: Callable[[], None]
    """Called once, after the last step."""
    fail: Callable[[str], None]
    """Called once, with the reason, where loss or gradient is not finite."""


class StackTrainer:
    """The trainers of a stack's members, stepping as one; their state stays where it was.

    Args:
        trainers: Of SAEs that share `stack_key`, and of one batch size.
        ordered: As in `Stack`.
    """

    def __init__(self, trainers: Sequence[Trainer], ordered: bool | None = None):
        self.trainers = list(trainers)
        self.stack = Stack([t.sae for t in self.trainers], ordered)
        self.optimizer = StackAdam(self.stack, [t.optimizer for t in self.trainers])
        self._silent = torch.stack([t.tracker.silent_rows for t in self.trainers])
        for trainer, part in zip(self.trainers, self._silent, strict=True):
            trainer.tracker.silent_rows = part
        limits = [t.tracker.dead_after_rows for t in self.trainers]
        self._limits = torch.tensor(limits, device=self._silent.device)[:, None]

    def step(
        self, x: Float[Tensor, "members batch d_in"], cell: Sequence[Int[Tensor, " batch"] | None]
    ) -> list[str | None]:
        """As `Trainer.step`, for every member on its own rows.

        Returns:
            For each member None, or what was not finite; weights and counters of such a one are untouched.
        """
        progress = [t.step_idx / t.settings.n_steps for t in self.trainers]
        loss = self.stack.loss(x, cell, self._silent >= self._limits, progress)
        self.optimizer.zero_grad()
        loss.total.sum().backward()
        numbers = self._numbers(loss)
        failures = [
            None if math.isfinite(one["loss"] + one["norm"])
            else f"loss {one['loss']}, gradient norm {one['norm']}"
            for one in numbers
        ]  # fmt: skip
        self._update([None if why else one["norm"] for one, why in zip(numbers, failures, strict=True)], loss)
        self._count(loss, numbers, failures, x.shape[1])
        return failures

    def _numbers(self, loss: StackTerms) -> list[dict[str, float]]:
        """Per member loss, gradient norm, and what goes into the curve."""
        table = {"loss": loss.total, **{f"loss_{n}": t for n, t in loss.terms.items()}}
        table |= {"norm": self.optimizer.norms(loss.idle), "fired": loss.fired.sum(1)}
        columns = torch.stack([v.detach().double() for v in table.values()]).T.tolist()
        return [dict(zip(table, column, strict=True)) for column in columns]

    def _update(self, norms: list[float | None], loss: StackTerms) -> None:
        """Clip and step the members that have a norm."""
        lrs, factors = [], []
        for trainer, norm in zip(self.trainers, norms, strict=True):
            s = trainer.settings
            lrs.append(None if norm is None else s.lr_at(trainer.step_idx))
            factors.append(1.0 if norm is None else s.clipped(norm))
        self.optimizer.step(lrs, factors, loss.idle)

    def _count(
        self, loss: StackTerms, numbers: list[dict[str, float]], failures: list[str | None], n_rows: int
    ) -> None:
        self._silent += n_rows
        self._silent.masked_fill_(loss.fired > 0, 0)
        for trainer, one, failure in zip(self.trainers, numbers, failures, strict=True):
            if failure is None:
                counted = {name: v for name, v in one.items() if name.startswith("loss")}
                trainer.means.add({**counted, "l0_train": one["fired"] / n_rows})
                trainer.step_idx += 1


def fit_together(entries: Sequence[Entry], bar: Progress, ordered: bool | None = None) -> None:
    """Train every entry to its end; each finishes, or fails, by itself.

    Args:
        entries: New or restored ones, at any step each, of one stack.
        bar: Told of every batch.
        ordered: As in `Stack`: whether k differs among all that were ever to be trained together; None:
            among these.
    """
    if ordered is None:
        ordered = len({getattr(entry.trainer.sae.cfg, "k", None) for entry in entries}) > 1
    live = [_Live(entry) for entry in entries]
    saved = time.monotonic()
    while live:
        trainer = StackTrainer([member.trainer for member in live], ordered)
        ended = False
        while not ended:
            failures = trainer.step(*_batch(live))
            for member, failure in zip(live, failures, strict=True):
                ended |= member.after(failure, bar)
            if time.monotonic() - saved >= live[0].trainer.settings.checkpoint_every_s:
                for member in live:
                    member.save()
                saved = time.monotonic()
        live = [member for member in live if not member.over]


def _batch(live: list[_Live]) -> tuple[Tensor, list[Tensor | None]]:
    """The next rows of every member."""
    values: list[dict[str, Any]] = [member.read() for member in live]
    return torch.stack([v["x"] for v in values]), [v["cell"] for v in values]


class _Live:
    """An entry while it trains."""

    def __init__(self, entry: Entry):
        self.entry, self.trainer, self.over = entry, entry.trainer, False
        s = self.trainer.settings
        self._stream: Iterator[ViewBatch] = entry.source.batches(
            s.batch_size, seed=s.seed, start=self.trainer.rows_seen, epochs=None
        )

    def read(self) -> dict[str, Any]:
        """What its next step takes."""
        self._rows = next(self._stream)
        return inputs(self._rows, self.trainer.sae, self.entry.source.cells)

    def after(self, failure: str | None, bar: Progress) -> bool:
        """Measure, and end where it is time; whether it has ended."""
        trainer, entry = self.trainer, self.entry
        if failure is not None:
            try:
                stop(trainer, self._rows, entry.checkpoints, entry.offending, failure)
            except DataError as error:
                entry.fail(str(error))
            self.over = True
            return True
        last = trainer.step_idx == trainer.settings.n_steps
        if last or trainer.step_idx % trainer.settings.eval_every == 0:
            trainer.record(measured(trainer, entry.evaluate))
        bar.advance(len(self._rows.x), note(trainer.curve))
        if last:
            entry.finish()
            self.over = True
        return self.over

    def save(self) -> None:
        """A checkpoint, while it is under way."""
        if not self.over:
            self.entry.checkpoints.save(self.trainer.rows_seen, *self.trainer.state())
