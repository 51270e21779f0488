"""The train stage: an activation store in, one SAE or one per member out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from thoughtlens.acts import ActivationStore, StoreSize
from thoughtlens.core import Number, Plan, Ranks, choose_device, joined, led, run_stage, warn
from thoughtlens.sae.fit.evaluation import DEFINITIONS
from thoughtlens.sae.fit.groups import memory_bytes
from thoughtlens.sae.fit.job import Job, check, expected, penalty, plan_jobs
from thoughtlens.sae.fit.run import Ending, Team, train_jobs
from thoughtlens.sae.fit.track import write_curves
from thoughtlens.sae.formats.size import expect as foretell
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.records import Failed, Trained, TrainOutcome

IDLE_BYTES = 0.5e9
"""Memory of the libraries alone."""
FVU = ("fvu_within_validation", "fvu_validation", "fvu_within_train", "fvu_train")
"""What says how much an SAE explains, the best first."""
NOTHING, HALF, STILL = 0.98, 0.5, 0.01
"""FVU from which on an SAE has learned nothing; from which on, if it has fallen by less than the third since
the first measurement, it has learned little."""
ENOUGH = 10
"""Firings per latent, on average, without which a sample cannot say that one is dead."""


def train(cfg: TrainConfig, out: str | Path) -> dict[str, Any]:
    """Train the SAE(s) of a config into the directory `out`.

    Started by torchrun, the processes share the work as `cfg.parallel` says, and the first one writes.
    Of several SAEs, one whose loss becomes NaN or Inf, or whose rows do not vary, stops alone: it is listed
    under `failed`, its last checkpoint is kept.

    Returns:
        The stage's result: per member its size, rows, settings, and last measurement; on ranks other than
        the first nothing.

    Raises:
        ConfigError: a setting that cannot be used with these rows (k above d_sae, a batch larger than
            the data), before anything is computed.
        DataError: no SAE could be trained to the end.
    """
    store = ActivationStore.open(cfg.acts)
    jobs = plan_jobs(cfg, store)
    warnings = [text for doubts in check(jobs) for text in doubts]
    with joined() as ranks:

        def work(tmp: Path) -> TrainOutcome:
            for text in warnings:
                warn(text)
            return _work(cfg, jobs, warnings, tmp, ranks)

        return led(ranks, lambda do: run_stage("train", cfg, out, do, inputs={"acts": cfg.acts}), work)


def plan(cfg: TrainConfig) -> Plan:
    """Rows, memory, disk and time of the whole stage; zeros where the store does not exist yet."""
    if not (Path(cfg.acts) / "meta.json").is_file():
        return _foretold(cfg)
    jobs = plan_jobs(cfg, ActivationStore.open(cfg.acts))
    largest = max(job.n_weights for job in jobs)
    return Plan(
        rows=sum(job.n_vectors for job in jobs),
        memory_bytes=max(memory_bytes(job) for job in jobs) + IDLE_BYTES,
        disk_bytes=4.0 * (sum(job.n_weights for job in jobs) + 2 * 3 * largest),
        seconds=2
        * sum(6.0 * job.n_weights * job.n_vectors for job in jobs)
        / _flops_per_s(choose_device(cfg.device)),
        notes=_decided(jobs),
    )


def expect(cfg: TrainConfig, out: Path) -> None:
    """Foretell the SAEs' sizes at `out`, where those of the store are known."""
    if size := StoreSize.of(cfg.acts):
        foretell(out, expected(cfg, size))


def _foretold(cfg: TrainConfig) -> Plan:
    """The plan on a store that is not there yet."""
    size = StoreSize.of(cfg.acts)
    if size is None:
        return Plan(rows=cfg.n_vectors or 0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    members = expected(cfg, size)
    weights = [2 * one.d_in * one.d_sae for one in members]
    rows = [cfg.n_vectors or round(cfg.epochs * one.vectors(size, cfg.split)) for one in members]
    each = [
        4.0 * (4.5 * n + 4 * cfg.batch_size * one.d_sae + 3 * (cfg.sample_rows + cfg.batch_size) * one.d_in)
        for n, one in zip(weights, members, strict=True)
    ]
    flops = sum(6.0 * n * k for n, k in zip(weights, rows, strict=True))
    return Plan(
        rows=sum(rows),
        memory_bytes=max(each) + IDLE_BYTES,
        disk_bytes=4.0 * (sum(weights) + 2 * 3 * max(weights)),
        seconds=2 * flops / _flops_per_s(choose_device(cfg.device)),
    )


def _decided(jobs: list[Job]) -> tuple[str, ...]:
    """The penalties that follow from the width of the rows."""
    if getattr(jobs[0].cfg.sae, "l1", None) is not None:
        return ()
    found = {l1 for job in jobs if (l1 := penalty(job)) is not None}
    return tuple(f"sae.l1 = {l1:.4g}, unset" for l1 in sorted(found))


def _work(cfg: TrainConfig, jobs: list[Job], warnings: list[str], tmp: Path, ranks: Ranks) -> TrainOutcome:
    team = Team.of(ranks, cfg.parallel, len(jobs))
    endings = train_jobs(jobs, tmp, choose_device(cfg.device), cfg.group_size, team)
    named = [(job.label, one) for job, one in zip(jobs, endings, strict=True)]
    if ranks.first:
        write_curves({label: one.curve for label, one in named}, tmp / "metrics.parquet")
    failed = [Failed(member=label, reason=one.failure) for label, one in named if one.failure is not None]
    members = [one.summary for one in endings if one.summary is not None]
    return TrainOutcome(
        seed=cfg.seed,
        split=cfg.split,
        validation_split=cfg.validation_split,
        members=members,
        failed=failed,
        headline=_headline(members, cfg.validation_split),
        definitions=DEFINITIONS,
        warnings=warnings
        + [f"{one.member} was not trained to its end: {one.reason}" for one in failed]
        + learned_little(endings),
    )


def learned_little(endings: Sequence[Ending]) -> list[str]:
    """What is to be said of SAEs that learned nothing, or most of whose latents are dead, at the end."""
    said = []
    for one, curve in [(ending.summary, ending.curve) for ending in endings if ending.summary is not None]:
        key = next((name for name in FVU if getattr(one, name) is not None and name in curve[0]), None)
        first, last = (0.0, 0.0) if key is None else (curve[0][key], getattr(one, key))
        if last >= NOTHING or (len(curve) > 1 and last > HALF and first - last < STILL):
            said.append(
                f"{one.member}: learned nothing or little, FVU {first:.3g} at the first measurement and "
                f"{last:.3g} at the last (0: all is explained, 1: what a mean explains), at a learning rate "
                f"of {one.lr_peak:.2g}: train longer, or with another rate"
            )
        n, fires, dead = one.n_validation or 0, one.l0_validation or 0.0, one.dead_validation or 0
        if n * fires > ENOUGH * one.d_sae and dead > one.d_sae / 2:
            said.append(
                f"{one.member}: {dead:,} of {one.d_sae:,} latents fire on none of {n:,} held-out vectors: "
                f"fewer latents would do, or sae.auxk and train.resample_every bring some back"
            )
    for line in said:
        warn(line)
    return said


def _headline(members: list[Trained], split: str) -> dict[str, Number]:
    """What says most, as means over the members."""
    n = sum(one.n_validation or 0 for one in members)
    table = {}
    for key in ("fvu_validation", "fvu_within_validation", "l0_validation", "dead_validation"):
        if values := [value for one in members if (value := getattr(one, key)) is not None]:
            table[key] = Number(value=sum(values) / len(values), n=n, split=split)
    return table


def _flops_per_s(where: torch.device) -> float:
    """What this machine reaches in a matrix product of training's shape."""
    a, b = torch.ones(256, 512, device=where), torch.ones(512, 2048, device=where)
    (a @ b).sum().item()
    start = time.perf_counter()
    (a @ b).sum().item()
    return 2.0 * 256 * 512 * 2048 / (time.perf_counter() - start)
