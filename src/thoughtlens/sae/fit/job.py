"""One SAE to train: its settings, its rows, and what a finished one says about itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch

from thoughtlens.acts import ActivationStore, StoreSize, View
from thoughtlens.core import DTYPES, ConfigError, DataError, Json, digest
from thoughtlens.sae.fit.members import Selection, plan_members
from thoughtlens.sae.fit.prune import Pruned
from thoughtlens.sae.fit.sources import JoinedView, Rows, open_source, resolve, sample_rows, weights
from thoughtlens.sae.fit.track import Row
from thoughtlens.sae.fit.trainer import Settings
from thoughtlens.sae.formats.says import of_store
from thoughtlens.sae.formats.size import FIRES, SAESize
from thoughtlens.sae.kinds.base import SAE
from thoughtlens.sae.kinds.config import SAEConfig
from thoughtlens.sae.kinds.registry import create
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.records import Sizes, Trained

MIN_ROWS_PER_DIM = 10
"""Training rows per input dimension below which a dictionary memorises."""
ROWS_PER_CELL = 256
"""Least number of sampled rows per (hook, thought) cell, on average."""
DEAD_SHARE = 0.05
"""Share of a short run after which a silent latent counts as dead."""
SIZES = tuple(one.name for one in fields(Sizes))
"""What is said of an SAE before its first step; `l1` where there is such a penalty."""


@dataclass(frozen=True)
class Job:
    """An SAE to train; `name` is its folder, "" where it is the only one."""

    cfg: TrainConfig
    store: ActivationStore
    member: Selection
    name: str
    label: str

    @cached_property
    def sae_cfg(self) -> SAEConfig:
        """The architecture with what only the data can say."""
        return resolve(self.cfg.sae, self.store, self.member, self.cfg.split)

    @cached_property
    def source(self) -> View | JoinedView:
        """The rows it trains on."""
        return open_source(self.sae_cfg, self.store, self.member, self.cfg.split, self.cfg.drop_outliers)

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.sae_cfg.width(self.source.d_in)

    @property
    def n_weights(self) -> int:
        """Entries of its matrices."""
        return weights(self.source) * self.d_sae

    @property
    def batch_size(self) -> int:
        """Vectors of a step: those asked for, or a tenth of its vectors where these are fewer."""
        n = self.source.n
        return self.cfg.batch_size if self.cfg.batch_size <= n else max(1, n // 10)

    @property
    def n_steps(self) -> int:
        """Whole batches nearest to the vectors asked for."""
        cfg = self.cfg
        return max(1, round((cfg.n_vectors or cfg.epochs * self.source.n) / self.batch_size))

    @property
    def n_vectors(self) -> int:
        """Vectors it sees in all."""
        return self.n_steps * self.batch_size

    def validation_source(self) -> View | JoinedView | None:
        """Its rows in the validation split; None where the store has none."""
        cfg = self.cfg
        try:
            return open_source(self.sae_cfg, self.store, self.member, cfg.validation_split, cfg.drop_outliers)
        except DataError:
            return None


def plan_jobs(cfg: TrainConfig, store: ActivationStore) -> list[Job]:
    """The SAEs that a config asks for, in order."""
    members = plan_members(store, cfg.members, cfg.hook_names, cfg.thoughts, cfg.sae)
    alone = cfg.members == ("pooled",)
    return [Job(cfg, store, member, "" if alone else member.name, member.name) for member in members]


def expected(cfg: TrainConfig, size: StoreSize) -> list[SAESize]:
    """The SAEs that a config asks for on a store of this size."""
    members = plan_members(size, cfg.members, cfg.hook_names, cfg.thoughts, cfg.sae)
    return [
        SAESize(
            hook_names=list(one.hook_names),
            n_thoughts=None if one.thoughts is None else len(one.thoughts),
            d_in=(d := max(size.d_in.get(hook, 0) for hook in one.hook_names)),
            d_sae=cfg.sae.width(d),
            fires=float(getattr(cfg.sae, "k", None) or FIRES),
        )
        for one in members
    ]


def check(jobs: Sequence[Job]) -> list[tuple[str, ...]]:
    """Refuse what cannot be trained; return for each what should not be believed of it."""
    for job in jobs:
        job.sae_cfg.check(job.source.d_in)
    largest = max(jobs, key=lambda job: job.source.n)
    if largest.batch_size < (asked := largest.cfg.batch_size):
        raise ConfigError(
            f"batch_size = {asked} is above the {largest.source.n} vectors of {largest.label} in split "
            f"{largest.cfg.split!r}; set train.batch_size to {largest.batch_size} or so, or extract more rows"
        )
    return [_doubts(job) for job in jobs]


def _doubts(job: Job) -> tuple[str, ...]:
    cfg, source, label = job.cfg, job.source, job.label
    warnings = [f"{label}: {w}" for w in job.sae_cfg.warnings(source.d_in)]
    if job.batch_size < cfg.batch_size:
        warnings.append(
            f"{label}: {source.n:,} training vectors are fewer than batch_size = {cfg.batch_size:,}; its "
            f"steps take {job.batch_size:,}"
        )
    seen = min(source.n, job.n_vectors)
    if seen < MIN_ROWS_PER_DIM * source.d_in:
        warnings.append(
            f"{label}: {seen:,} training vectors for d_in = {source.d_in} are fewer than "
            f"{MIN_ROWS_PER_DIM} per dimension; the dictionary will memorise them and its numbers mean little"
        )
    if job.validation_source() is None:
        warnings.append(
            f"{label}: no rows in split {cfg.validation_split!r}; the training curve says nothing "
            f"about rows that were not trained on"
        )
    return tuple(warnings)


def start(job: Job, device: torch.device) -> tuple[SAE, Rows]:
    """A new SAE fitted to a sample of its rows, and the part of the sample that is measured."""
    cfg, source, cells = job.cfg, job.source, job.member.cells(job.store)
    rows = sample_rows(source, cells, max(cfg.sample_rows, ROWS_PER_CELL * len(cells)), cfg.seed)
    d_out = source.d_out if isinstance(source, JoinedView) else None
    sae = create(job.sae_cfg, source.d_in, seed=cfg.seed, d_out=d_out).to(device)
    sae.hook_names = list(job.member.hook_names)
    sae.compute_dtype = DTYPES[cfg.dtype]
    y = None if rows.y is None else rows.y.to(device)
    sae.initialize(rows.x.to(device), rows.cell.to(device), rows.cells, y)
    return sae, rows.head(cfg.eval_rows)


def validation_rows(job: Job) -> Rows | None:
    """What is measured of the validation split; None where the store has none."""
    source = job.validation_source()
    if source is None:
        return None
    return sample_rows(source, job.member.cells(job.store), job.cfg.eval_rows, job.cfg.seed)


def settings(job: Job) -> Settings:
    """The numbers of its run, all decided."""
    cfg, n_steps = job.cfg, job.n_steps
    return Settings(
        n_steps=n_steps,
        batch_size=job.batch_size,
        lr=cfg.lr or cfg.sae.default_lr(job.d_sae, n_steps),
        warmup=cfg.warmup,
        decay=cfg.decay,
        grad_clip=cfg.grad_clip,
        dead_after_rows=cfg.dead_after_rows or min(1_000_000, max(1, round(DEAD_SHARE * job.n_vectors))),
        eval_every=math.ceil(n_steps / cfg.evaluations),
        checkpoint_every_s=cfg.checkpoint_every_s,
        seed=cfg.seed,
        resample_every=cfg.resample_every,
    )


def provenance(job: Job) -> Json:
    """Where a saved SAE says it comes from."""
    cfg, member, meta = job.cfg, job.member, job.store.meta
    return {
        "acts_digest": digest(cfg.acts),
        "model": meta.model or None,
        "model_revision": meta.model_revision,
        "model_digest": meta.model_digest,
        "modules": {hook: meta.modules.get(hook) for hook in member.hook_names},
        "thought_convention": meta.thought_convention,
        "reading": meta.reading,
        "thoughts": None if member.thoughts is None else list(member.thoughts),
        "split": cfg.split,
        "drop_outliers": cfg.drop_outliers,
        "says": of_store(job.store).kept(),
        "seed": cfg.seed,
        "rows_seen": job.n_vectors,
    }


def facts(job: Job) -> Json:
    """What an SAE is and how it is trained, known before its first step: what followers of its curve get."""
    cfg = job.cfg
    ours = {"seed": cfg.seed, "split": cfg.split, "sae": decided(cfg.sae, job.source.d_in)}
    return sizes(job).to_json() | ours


def decided(cfg: SAEConfig, d_in: int) -> Json:
    """An architecture's settings on rows of this width."""
    return cfg.for_width(d_in).model_dump(mode="json")


def penalty(job: Job) -> float | None:
    """The L1 coefficient; None for kinds without one."""
    return getattr(job.sae_cfg.for_width(job.source.d_in), "l1", None)


def sizes(job: Job) -> Sizes:
    """What is known of it before its first step."""
    member, s = job.member, settings(job)
    return Sizes(
        member=job.label,
        kind=job.sae_cfg.kind,  # type: ignore[attr-defined]
        hook_names=list(member.hook_names),
        thoughts=None if member.thoughts is None else list(member.thoughts),
        d_in=job.source.d_in,
        d_sae=job.d_sae,
        n_vectors=job.source.n,
        n_problems=job.store.problems["split"].to_pylist().count(job.cfg.split),
        passes=round(job.n_vectors / job.source.n, 3),
        batch_size=s.batch_size,
        lr_peak=s.lr,
        dead_after_rows=s.dead_after_rows,
        l1=penalty(job),
    )


def trained(job: Job, sample: Rows, validation: Rows | None, last: Row, pruned: Pruned | None) -> Trained:
    """A finished SAE's entry in the result."""
    n = {"n_train": len(sample.x), "n_validation": 0 if validation is None else len(validation.x)}
    about = sizes(job).to_json()
    if pruned is not None:
        kept = len(pruned.latents)
        about |= {"d_sae": kept, "pruned": job.d_sae - kept, "pruned_firings": pruned.firings}
    return Trained.from_json({**about, **n, **last})
