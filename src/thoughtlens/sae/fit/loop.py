"""The training loop: one SAE, or many in one stack, each with its own rows, seed, schedule and end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from thoughtlens.acts import View, ViewBatch
from thoughtlens.core import DataError, Progress
from thoughtlens.sae.fit.checkpoint import Checkpoints
from thoughtlens.sae.fit.sources import Joined, JoinedView
from thoughtlens.sae.fit.track import Row
from thoughtlens.sae.fit.trainer import StackTrainer, Trainer
from thoughtlens.sae.formats.files import write_tensors
from thoughtlens.sae.kinds.base import SAE


@runtime_checkable
class Entry(Protocol):
    """One SAE of a loop, and what is its own."""

    trainer: Trainer
    """New, or restored from `checkpoints`."""
    checkpoints: Checkpoints
    """Where the state goes every `checkpoint_every_s` seconds."""
    offending: Path
    """File for the batch that makes the loss NaN or Inf."""

    @property
    def source(self) -> View | JoinedView:
        """Vectors to train on."""
        ...

    def evaluate(self, sae: SAE) -> Row:
        """Measure the SAE; the row is added to the curve."""
        ...

    def finish(self) -> None:
        """Called once, after the last step."""

    def fail(self, reason: str) -> None:
        """Called once where loss or gradient is not finite."""


def fit(
    entries: Sequence[Entry], bar: Progress, *, stacked: bool = False, ordered: bool | None = None
) -> None:
    """Train every entry to its end; each finishes, or fails, by itself.

    Args:
        entries: New or restored ones, at any step each: a single one, or those of one stack.
        bar: Told of every batch.
        stacked: Whether more than one was ever to be trained together: those that are left go on in a stack.
        ordered: As in `Stack`: whether k differs among all that were ever to be trained together; None:
            among these.
    """
    if ordered is None:
        ordered = len({getattr(entry.trainer.sae.cfg, "k", None) for entry in entries}) > 1
    live, saved = [_Live(entry) for entry in entries], time.monotonic()
    while live := [member for member in live if not member.ended()]:
        stack = StackTrainer([member.trainer for member in live], ordered) if stacked else None
        while not any(member.over for member in live):
            for member, failure in zip(live, _step(stack, live), strict=True):
                member.after(failure, bar)
            if live[0].trainer.checkpoint_due(time.monotonic() - saved):
                for member in live:
                    member.save()
                saved = time.monotonic()


class Inputs(NamedTuple):
    """What `Trainer.step` takes."""

    x: Tensor
    cell: Tensor | None
    y: Tensor | None = None
    labels: Tensor | None = None


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


def _step(stack: StackTrainer | None, live: list[_Live]) -> list[str | None]:
    """One step of all, together or of the only one; for each what was not finite."""
    values = [member.read() for member in live]
    if stack is not None:
        return stack.step(torch.stack([one.x for one in values]), [one.cell for one in values])
    (only,), (given,) = live, values
    try:
        only.trainer.step(*given)
    except FloatingPointError as error:
        return [str(error)]
    return [None]


class _Live:
    """An entry while it trains."""

    def __init__(self, entry: Entry):
        self.entry, self.trainer, self.failed = entry, entry.trainer, False
        s = self.trainer.settings
        self._stream: Iterator[ViewBatch] = entry.source.batches(
            s.batch_size, seed=s.seed, start=self.trainer.rows_seen, epochs=None, share=self.trainer.share
        )

    @property
    def over(self) -> bool:
        """Whether it takes no further step."""
        return self.failed or self.trainer.step_idx >= self.trainer.settings.n_steps

    def read(self) -> Inputs:
        """What its next step takes, on the SAE's device."""
        rows = self._rows = next(self._stream)
        sae, extra = self.trainer.sae, (rows.y, rows.labels) if isinstance(rows, Joined) else ()
        device, cell = sae.W_enc.device, sae.cell_index(self.entry.source.cells, rows.cell)
        return Inputs(rows.x.to(device), *(None if t is None else t.to(device) for t in (cell, *extra)))

    def after(self, failure: str | None, bar: Progress) -> None:
        """Measure where it is time."""
        trainer, entry = self.trainer, self.entry
        if failure is not None:
            self.failed = True
            try:
                stop(trainer, self._rows, entry.checkpoints, entry.offending, failure)
            except DataError as error:
                entry.fail(str(error))
            return
        if self.over or trainer.step_idx % trainer.settings.eval_every == 0:
            trainer.record(_measured(entry))
        bar.advance(trainer.settings.batch_size, _note(trainer.curve))

    def save(self) -> None:
        """A checkpoint, unless it has failed."""
        if not self.failed:
            self.entry.checkpoints.save(self.trainer.rows_seen, *self.trainer.state())

    def ended(self) -> bool:
        """Finish it after its last step; whether it is over."""
        if self.over and not self.failed:
            self.entry.finish()
        return self.over


def _measured(entry: Entry) -> Row:
    trainer = entry.trainer
    return {
        "rows_seen": trainer.rows_seen,
        "lr": trainer.settings.lr_at(trainer.step_idx - 1),
        **trainer.means.take(),
        "n_dead": trainer.n_dead(),
        **entry.evaluate(trainer.whole()),
    }


def _note(curve: list[Row]) -> str:
    if not curve:
        return ""
    fvu = curve[-1].get("fvu_validation", curve[-1].get("fvu_train"))
    return "" if fvu is None else f"FVU {fvu:.3f}, {curve[-1]['n_dead']} dead"
