"""Many SAEs to their files: in groups, the groups side by side, each SAE resumed and failing by itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from thoughtlens import sae as saes
from thoughtlens.errors import DataError
from thoughtlens.progress import Progress, progress, say, warn
from thoughtlens.stage import read_json, write_json
from thoughtlens.train.groups import plan_groups
from thoughtlens.train.jobs import Job, provenance, settings, start, summary, validation_rows
from thoughtlens.training.checkpoint import Checkpoints
from thoughtlens.training.evaluation import measure
from thoughtlens.training.loop import Trainer, fit
from thoughtlens.training.together import Entry, fit_together
from thoughtlens.training.track import Row


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a summary, or the reason why there is none."""

    label: str
    curve: list[Row]
    summary: dict[str, Any] | None
    failure: str | None = None


def train_jobs(
    jobs: list[Job], tmp: Path, device: torch.device, group_size: int | Literal["auto"]
) -> list[Outcome]:
    """Train SAEs into folders of `tmp`; those that are finished there already are read back.

    On the CPU, groups run side by side, one thread each: threads that share a matrix product wait for
    each other after every operation, threads with an SAE of their own never.

    Raises:
        DataError: the only job, or every one of them, cannot be trained to the end.
        ResourceError: groups of `group_size` do not fit into memory.
    """
    n_threads = torch.get_num_threads() if device.type == "cpu" else 1
    groups = plan_groups(jobs, device, group_size, n_threads)
    if len(jobs) > 1:
        sizes = ", ".join(map(str, sorted({len(g) for g in groups})))
        say(
            f"train: {len(jobs)} SAEs in {len(groups)} groups of {sizes}, "
            f"{min(n_threads, len(groups))} at once"
        )
    with progress("train", sum(job.n_vectors for job in jobs), "vectors") as bar:
        work = [partial(_train_group, group, tmp, device, bar) for group in groups]
        found = {outcome.label: outcome for part in _side_by_side(work, n_threads, bar) for outcome in part}
    outcomes = [found[job.label] for job in jobs]
    if all(o.failure is not None for o in outcomes):
        for job in jobs:
            _Run(job, tmp, device).done.unlink()
        raise DataError(str(outcomes[0].failure))
    return outcomes


def _side_by_side(
    work: list[Callable[[], list[Outcome]]], n_threads: int, bar: Progress
) -> list[list[Outcome]]:
    """Every result in order; the first exception stops all."""
    if min(n_threads, len(work)) == 1:
        return [do() for do in work]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(n_threads, len(work)), "train") as pool:
            futures = [pool.submit(do) for do in work]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                bar.stop()
                pool.shutdown(cancel_futures=True)
                raise
            return [future.result() for future in futures]
    finally:
        torch.set_num_threads(n_threads)


def _train_group(group: list[Job], tmp: Path, device: torch.device, bar: Progress) -> list[Outcome]:
    """Those of a group that are not finished, each from where it stands."""
    runs = [_Run(job, tmp, device) for job in group]
    todo = [run for run in runs if not run.resume(bar)]
    if len(group) > 1:
        fit_together([run.entry() for run in todo], bar)
    else:
        for run in todo:
            run.fit(bar)
    return [run.outcome() for run in runs]


class _Run:
    """A job between its checkpoints and its files."""

    def __init__(self, job: Job, tmp: Path, device: torch.device):
        self.job, self.tmp, self.device = job, tmp, device
        self.checkpoints = Checkpoints(tmp / "checkpoints" / job.label)
        self.offending = tmp / f"offending_batch.{job.label}.safetensors"

    @property
    def done(self) -> Path:
        """Its curve with its summary or its failure, once it is over."""
        return self.checkpoints.root / "done.json"

    def resume(self, bar: Progress) -> bool:
        """Whether it is over; if not, everything is loaded."""
        if not self.done.is_file():
            try:
                self._load()
            except DataError as error:
                self.fail(str(error))
        if self.done.is_file():
            bar.skip(self.job.n_vectors)
            return True
        bar.skip(self.trainer.rows_seen)
        return False

    def _load(self) -> None:
        self.offending.unlink(missing_ok=True)
        sae, self.sample = start(self.job, self.device)
        self.validation = validation_rows(self.job)
        self.trainer = Trainer(sae, settings(self.job))
        if (found := self.checkpoints.latest()) is not None:
            self.trainer.restore(*found)

    def fit(self, bar: Progress) -> None:
        """Train it alone."""
        try:
            fit(self.trainer, self.job.source, self.evaluate, self.checkpoints, bar, self.offending)
        except DataError as error:
            self.fail(str(error))
        else:
            self.finish()

    def entry(self) -> Entry:
        """It as one of several that are trained together."""
        return Entry(
            self.trainer,
            self.job.source,
            self.evaluate,
            self.checkpoints,
            self.offending,
            self.finish,
            self.fail,
        )

    def evaluate(self, sae: saes.SAE) -> Row:
        """Its measurements on training and validation rows."""
        row = measure(sae, self.sample, "train")
        return row if self.validation is None else row | measure(sae, self.validation, "validation")

    def finish(self) -> None:
        """Write its files; from here on it is over."""
        trainer, job = self.trainer, self.job
        trainer.sae.provenance = provenance(job)
        saes.save(trainer.sae, self.tmp / job.name)
        entry = summary(job, trainer.settings, self.sample, self.validation, trainer.curve[-1])
        self.done.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.done, {"curve": trainer.curve, "summary": entry})
        self.checkpoints.clear()

    def fail(self, reason: str) -> None:
        """Say why it stops; its checkpoints stay."""
        warn(f"{self.job.label}: {reason}")
        trainer: Trainer | None = getattr(self, "trainer", None)
        self.done.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.done, {"curve": trainer.curve if trainer else [], "failure": reason})

    def outcome(self) -> Outcome:
        """What the files say."""
        table = read_json(self.done)
        return Outcome(self.job.label, table["curve"], table.get("summary"), table.get("failure"))
