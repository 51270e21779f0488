"""Many SAEs to their files: in groups, the groups side by side, each SAE resumed and failing by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from thoughtlens.acts import View
from thoughtlens.core import (
    ConfigError,
    DataError,
    Parts,
    Progress,
    Ranks,
    progress,
    read_json,
    say,
    warn,
    write_json,
)
from thoughtlens.sae.fit.checkpoint import Checkpoints, ReadOnly
from thoughtlens.sae.fit.evaluation import measure
from thoughtlens.sae.fit.groups import plan_groups, require_memory
from thoughtlens.sae.fit.job import Job, facts, provenance, settings, start, trained, validation_rows
from thoughtlens.sae.fit.loop import fit
from thoughtlens.sae.fit.parallel import DataParallelTrainer
from thoughtlens.sae.fit.prune import only, prune
from thoughtlens.sae.fit.sharded import LatentParallelTrainer
from thoughtlens.sae.fit.sources import Joined, JoinedView
from thoughtlens.sae.fit.track import Row, tell
from thoughtlens.sae.fit.trainer import Trainer
from thoughtlens.sae.formats.io import save as save_sae
from thoughtlens.sae.kinds.base import SAE, Batch
from thoughtlens.sae.train.config import Parallel
from thoughtlens.sae.train.records import Trained

LEAST_ROWS = 2
"""Of each rank where they share the rows of a batch: `auxk` is measured against their spread."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What became of a job: what is said of a trained SAE, or the reason why there is none."""

    curve: list[Row]
    summary: Trained | None = None
    failure: str | None = None

    def write(self, file: Path) -> None:
        """As JSON."""
        about = {"failure": self.failure} if self.summary is None else {"summary": self.summary.to_json()}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"curve": self.curve, **about})

    @classmethod
    def read(cls, file: Path) -> Ending:
        """What `write` wrote."""
        table = read_json(file)
        found = table.get("summary")
        summary = None if found is None else Trained.from_json(found)
        return cls(curve=table["curve"], summary=summary, failure=table.get("failure"))


@dataclass(frozen=True)
class Team:
    """The processes at work, and what they share."""

    ranks: Ranks = field(default_factory=Ranks)
    how: Literal["members", "data", "latents"] = "members"

    @classmethod
    def of(cls, ranks: Ranks, how: Parallel, n_jobs: int) -> Team:
        """The team for some jobs, `auto` decided."""
        if ranks.size == 1:
            return cls()
        return cls(ranks, how if how != "auto" else "members" if n_jobs > 1 else "data")

    @property
    def bytes_per_weight(self) -> float:
        """Of weights, gradient and moments on each rank of a joint team, float32.

        With `data` weights and gradient are on all, and others' gradients of a rank's latents come to it.
        """
        n = self.ranks.size
        return 16.0 / n if self.how == "latents" else 8.0 + 4.0 * (n - 1) / n + 8.0 / n

    @property
    def joint(self) -> bool:
        """Whether all work on one SAE at a time."""
        return self.ranks.size > 1 and self.how != "members"

    @property
    def writes(self) -> bool:
        """Whether this process writes the SAEs that it works on."""
        return self.ranks.first or not self.joint


def train_jobs(
    jobs: list[Job],
    tmp: Path,
    device: torch.device,
    group_size: int | Literal["auto"],
    team: Team = Team(),
) -> list[Ending]:
    """Train SAEs into folders of `tmp`; those that are finished there already are read back.

    On the CPU, groups run side by side, one thread each: threads that share a matrix product wait for
    each other after every operation, threads with an SAE of their own never.

    Raises:
        DataError: the only job, or every one of them, cannot be trained to the end.
        ResourceError: groups of `group_size`, or an SAE alone, do not fit into memory.
        ConfigError: a kind, or a batch, that the team cannot share.
    """
    team = team or Team()
    n_threads = torch.get_num_threads() if device.type == "cpu" and not team.joint else 1
    groups = _groups(jobs, device, group_size, n_threads, team)
    with progress("train", sum(job.n_vectors for group in groups for job in group), "vectors") as bar:
        _side_by_side([partial(_train_group, g, tmp, device, bar, team) for g in groups], n_threads, bar)
    team.ranks.wait()
    endings = [Ending.read(_Run(job, tmp, device, team).done) for job in jobs]
    team.ranks.wait()  # the first one goes on to rename what the others read here
    if all(one.failure is not None for one in endings):
        if team.ranks.first:
            for job in jobs:
                _Run(job, tmp, device, team).done.unlink()
        raise DataError(str(endings[0].failure))
    return endings


def _groups(
    jobs: list[Job], device: torch.device, group_size: int | Literal["auto"], n_threads: int, team: Team
) -> list[list[Job]]:
    """The groups that this process works on."""
    if team.joint:
        smallest = min(job.batch_size for job in jobs)
        if team.how == "data" and smallest < LEAST_ROWS * team.ranks.size:
            raise ConfigError(
                f"batch_size = {smallest} is below {LEAST_ROWS} rows for each of {team.ranks.size} ranks; "
                f"start fewer"
            )
        for job in jobs:
            require_memory(job, device, team.bytes_per_weight)
        return [[job] for job in jobs]
    groups = plan_groups(jobs, device, group_size, n_threads, team.ranks.size)
    if len(jobs) > 1:
        sizes = ", ".join(map(str, sorted({len(g) for g in groups})))
        at_once = min(n_threads, len(groups))
        say(f"train: {len(jobs)} SAEs in {len(groups)} groups of {sizes}, {at_once} at once")
    return groups[team.ranks.rank :: team.ranks.size]


def _side_by_side(work: list[Callable[[], None]], n_threads: int, bar: Progress) -> None:
    """Do all of it; the first exception stops the rest."""
    if min(n_threads, len(work)) <= 1:
        for do in work:
            do()
        return
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
    finally:
        torch.set_num_threads(n_threads)


def _train_group(group: list[Job], tmp: Path, device: torch.device, bar: Progress, team: Team) -> None:
    """Those of a group that are not finished, each from where it stands."""
    runs = [_Run(job, tmp, device, team) for job in group]
    todo = [run for run in runs if not run.resume(bar)]
    ks = {getattr(job.sae_cfg, "k", None) for job in group}
    fit(todo, bar, stacked=len(group) > 1, ordered=len(ks) > 1)


class _Run:
    """A job between its checkpoints and its files."""

    def __init__(self, job: Job, tmp: Path, device: torch.device, team: Team):
        self.job, self.tmp, self.device, self.team = job, tmp, device, team
        self.checkpoints = (Checkpoints if team.writes else ReadOnly)(tmp / "checkpoints" / job.label)
        mine = "" if team.writes else f".rank_{team.ranks.rank}"
        self.offending = tmp / f"offending_batch.{job.label}{mine}.safetensors"

    @property
    def done(self) -> Path:
        """Its curve with its summary or its failure, once it is over."""
        return Parts(self.tmp).path(self.job.label, "json")

    def resume(self, bar: Progress) -> bool:
        """Whether it is over; if not, everything is loaded."""
        if (earlier := self.checkpoints.root / "done.json").is_file() and self.team.writes:
            os.replace(earlier, self.done)  # where earlier versions kept it
        over = self.done.is_file()
        try:
            if not over:
                self._load()
            elif self.team.writes:
                found = Ending.read(self.done)
                tell(facts(self.job), found.curve)
                if found.failure is None:
                    self.checkpoints.clear()  # which a kill may have left
        except DataError as error:
            self.fail(str(error))
            over = True
        bar.skip(self.job.n_vectors if over else self.trainer.rows_seen)
        return over

    def _load(self) -> None:
        self.offending.unlink(missing_ok=True)
        whole = self.team.joint and self.team.how == "latents"
        sae, self.sample = start(self.job, torch.device("cpu") if whole else self.device)
        self.validation = validation_rows(self.job)
        self.trainer = self._trainer(sae)
        self.trainer.facts = facts(self.job) if self.team.writes else None
        if (found := self.checkpoints.latest()) is not None:
            self.trainer.restore(*found)
        if self.team.joint:
            self.team.ranks.wait()  # all have read the checkpoints before one writes and deletes

    def _trainer(self, sae: SAE) -> Trainer:
        numbers, team = settings(self.job), self.team
        if not team.joint:
            return Trainer(sae, numbers)
        if team.how == "latents":
            return LatentParallelTrainer(sae, numbers, team.ranks, self.device)
        return DataParallelTrainer(sae, numbers, team.ranks)

    @property
    def source(self) -> View | JoinedView:
        """Its rows."""
        return self.job.source

    def evaluate(self, sae: SAE) -> Row:
        """Its measurements on training and validation rows, by the process that writes them."""
        if not self.team.writes:
            return {}
        row = measure(sae, self.sample, "train")
        return row if self.validation is None else row | measure(sae, self.validation, "validation")

    def finish(self) -> None:
        """Write its files; from here on it is over."""
        trainer, job, sae = self.trainer, self.job, self.trainer.whole()
        if not self.team.writes:
            return
        last, pruned = trainer.curve[-1], None
        if job.cfg.prune:
            pruned = prune(sae, self._batches(sae))
            sae = only(sae, pruned.latents)
            last = last | self.evaluate(sae)
        sae.provenance = provenance(job)
        save_sae(sae, self.tmp / job.name)
        found = trained(job, self.sample, self.validation, last, pruned)
        Ending(curve=trainer.curve, summary=found).write(self.done)
        self.checkpoints.clear()

    def _batches(self, sae: SAE) -> Iterator[Batch]:
        """Training vectors in a random order, one pass."""
        source, s, device = self.source, self.trainer.settings, sae.W_enc.device
        for rows in source.batches(s.batch_size, seed=s.seed):
            y = rows.y.to(device) if isinstance(rows, Joined) and rows.y is not None else None
            yield Batch(rows.x.to(device), y, sae.cell_index(source.cells, rows.cell))

    def fail(self, reason: str) -> None:
        """Say why it stops; its checkpoints stay."""
        if not self.team.writes:
            return
        warn(f"{self.job.label}: {reason}")
        trainer: Trainer | None = getattr(self, "trainer", None)
        Ending(curve=trainer.curve if trainer else [], failure=reason).write(self.done)
