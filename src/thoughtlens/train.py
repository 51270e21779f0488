"""The train stage: an activation store in, one SAE or one per member out."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from thoughtlens import sae as saes
from thoughtlens.config import Config
from thoughtlens.errors import ConfigError, DataError, ResourceError
from thoughtlens.progress import progress, say, warn
from thoughtlens.stage import Plan, digest, read_json, run_stage, write_json
from thoughtlens.store.reader import ActivationStore
from thoughtlens.store.view import View
from thoughtlens.training.checkpoint import Checkpoints
from thoughtlens.training.evaluation import DEFINITIONS, Rows, measure
from thoughtlens.training.loop import Settings, Trainer, fit
from thoughtlens.training.members import Member, Partition, plan_members
from thoughtlens.training.sources import JoinedView, open_source, resolve, sample_rows, weights
from thoughtlens.training.track import Row, write_curves

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MIN_ROWS_PER_DIM = 10
"""Training rows per input dimension below which a dictionary memorises."""
IDLE_BYTES = 0.5e9
"""Memory of the libraries alone."""
ROWS_PER_CELL = 256
"""Least number of sampled rows per (hook, thought) cell, on average."""
DEAD_SHARE = 0.05
"""Share of a short run after which a silent latent counts as dead."""


class TrainConfig(Config):
    """How SAEs are trained on an activation store."""

    acts: Path
    """The activation store."""
    sae: saes.AnySAEConfig = saes.TopKConfig()
    """Architecture, by `kind`, and its settings."""
    members: tuple[Partition, ...] = Field(default=("pooled",), min_length=1)
    """pooled: one SAE on all rows. per_layer, per_thought, per_cell: one SAE for each hook, each
    thought, each pair of both. Several: all of these."""
    hook_names: tuple[str, ...] | None = None
    """Hooks to train on; unset: all in the store."""
    thoughts: tuple[int, ...] | None = None
    """Values of thought_idx to train on; unset: all."""
    split: str = "train"
    """Split whose rows are trained on."""
    validation_split: str = "validation"
    """Split whose rows are measured during training; never trained on."""
    drop_outliers: bool = True
    """Leave out positions flagged at extraction for their massive norm."""
    epochs: float = Field(default=4.0, gt=0)
    """Passes over the rows, used where `n_vectors` is unset."""
    n_vectors: int | None = Field(default=None, ge=1)
    """Vectors to train on in all, over as many passes as that takes."""
    batch_size: int = Field(default=2048, ge=1)
    """Vectors per optimizer step."""
    lr: float | None = Field(default=None, gt=0)
    """Adam's learning rate; unset: the architecture's default for its size."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the run over which the learning rate rises from 0."""
    decay: float = Field(default=0.2, ge=0, le=1)
    """Share of the run, at its end, over which the learning rate falls to 0."""
    grad_clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0: not clipped."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """dtype of the encoder's matrix product; weights and optimizer are float32 always."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, order of rows, and samples."""
    dead_after_rows: int | None = Field(default=None, ge=1)
    """Vectors without firing after which a latent is dead; unset: 1,000,000, or 5 % of a shorter run."""
    resample_every: int | None = Field(default=None, ge=1)
    """Vectors between resamplings of dead latents during the first half of the run, an alternative to
    sae.auxk; unset: never."""
    sample_rows: int = Field(default=16384, ge=2)
    """Training vectors that normalisation and initial bias are estimated from."""
    evaluations: int = Field(default=20, ge=1)
    """Measurements over the run."""
    eval_rows: int = Field(default=2048, ge=2)
    """Vectors of each split that a measurement takes."""
    checkpoint_every_s: float = Field(default=60.0, ge=0)
    """Seconds between checkpoints."""

    @field_validator("members", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if len(set(self.members)) < len(self.members):
            raise ValueError(f"members names a partition twice: {list(self.members)}")
        if self.split == self.validation_split:
            raise ValueError(f"split and validation_split are both {self.split!r}; measure on other rows")
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay must not exceed 1, got {self.warmup} + {self.decay}")
        return self


def train(cfg: TrainConfig, out: str | Path) -> dict[str, Any]:
    """Train the SAE(s) of a config into the directory `out`.

    Returns:
        The stage's result: per member its size, rows, settings, and last measurement.

    Raises:
        ConfigError: a setting that cannot be used with these rows (k above d_sae, a batch larger than
            the data), before anything is computed.
        DataError: the loss became NaN or Inf.
    """
    store = ActivationStore.open(cfg.acts)
    device = _device(cfg.device)
    todo = plan_members(store, cfg.members, cfg.hook_names, cfg.thoughts, cfg.sae)
    warnings = [text for member in todo for text in _check(cfg, store, member)]

    def work(tmp: Path) -> dict[str, Any]:
        for text in warnings:
            warn(text)
        return _work(cfg, store, todo, tmp, device) | {"warnings": warnings}

    return run_stage("train", cfg, out, work, inputs={"acts": cfg.acts})


def plan(cfg: TrainConfig) -> Plan:
    """Rows, memory, disk and time of the whole stage; zeros where the store does not exist yet."""
    if not (Path(cfg.acts) / "meta.json").is_file():
        return Plan(rows=cfg.n_vectors or 0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    store = ActivationStore.open(cfg.acts)
    rows, memory, stored, largest, flops = 0, 0.0, 0, 0, 0.0
    for member in plan_members(store, cfg.members, cfg.hook_names, cfg.thoughts, cfg.sae):
        _, view = _open(cfg, store, member)
        d_sae = cfg.sae.width(view.d_in)
        n_vectors = _n_steps(cfg, view.n) * cfg.batch_size
        size = weights(view) * d_sae
        batch = 4 * cfg.batch_size * d_sae + 3 * (cfg.sample_rows + cfg.batch_size) * weights(view) // 2
        memory = max(memory, 4.0 * (4 * size + batch))
        rows, stored, largest = rows + n_vectors, stored + size, max(largest, size)
        flops += 6.0 * size * n_vectors
    return Plan(
        rows=rows,
        memory_bytes=memory + IDLE_BYTES,
        disk_bytes=4.0 * (stored + 2 * 3 * largest),
        seconds=2 * flops / _flops_per_s(_device(cfg.device)),
    )


def _work(
    cfg: TrainConfig, store: ActivationStore, todo: list[Member], tmp: Path, device: torch.device
) -> dict[str, Any]:
    curves: dict[str, list[Row]] = {}
    summaries = []
    for i, member in enumerate(todo):
        if len(todo) > 1:
            say(f"train: SAE {i + 1} of {len(todo)}, {member.label}")
        curve, summary = _train_member(cfg, store, member, tmp, device)
        curves[member.label] = curve
        summaries.append(summary)
    write_curves(curves, tmp / "metrics.parquet")
    return {
        "seed": cfg.seed,
        "split": cfg.split,
        "validation_split": cfg.validation_split,
        "members": summaries,
        "headline": _headline(summaries, cfg.validation_split),
        "definitions": DEFINITIONS,
    }


def _check(cfg: TrainConfig, store: ActivationStore, member: Member) -> list[str]:
    """Refuse what cannot be trained; return what should not be believed."""
    sae, view = _open(cfg, store, member)
    sae.check(view.d_in)
    if cfg.batch_size > view.n:
        raise ConfigError(
            f"batch_size = {cfg.batch_size} is above the {view.n} vectors of {member.label} in split "
            f"{cfg.split!r}; set train.batch_size to {max(1, view.n // 10)} or so, or extract more rows"
        )
    warnings = [f"{member.label}: {w}" for w in sae.warnings(view.d_in)]
    if view.n < MIN_ROWS_PER_DIM * view.d_in:
        warnings.append(
            f"{member.label}: {view.n:,} training vectors for d_in = {view.d_in} are fewer than "
            f"{MIN_ROWS_PER_DIM} per dimension; the dictionary will memorise them and its numbers mean little"
        )
    if _open_if_any(cfg, store, member, cfg.validation_split) is None:
        warnings.append(
            f"{member.label}: no rows in split {cfg.validation_split!r}; the training curve says nothing "
            f"about rows that were not trained on"
        )
    return warnings


def _train_member(
    cfg: TrainConfig, store: ActivationStore, member: Member, tmp: Path, device: torch.device
) -> tuple[list[Row], dict[str, Any]]:
    """One SAE from where it stands to its files; what is finished already is read back."""
    checkpoints = Checkpoints(tmp / "checkpoints" / member.label)
    done = checkpoints.root / "done.json"
    if done.is_file():
        table = read_json(done)
        return table["curve"], table["summary"]
    _, view = _open(cfg, store, member)
    sae, sample = _start(cfg, store, member, device)
    validation = _validation(cfg, store, member)
    settings = _settings(cfg, view.n, sae)
    trainer = Trainer(sae, settings)
    if (found := checkpoints.latest()) is not None:
        trainer.restore(*found)
    offending = tmp / f"offending_batch.{member.label}.safetensors"
    offending.unlink(missing_ok=True)

    def evaluate(sae: saes.SAE) -> Row:
        row = measure(sae, sample, "train")
        return row if validation is None else row | measure(sae, validation, "validation")

    total = settings.n_steps * settings.batch_size
    with progress("train", total, "vectors", trainer.rows_seen) as bar:
        curve = fit(trainer, view, evaluate, checkpoints, bar, offending)
    sae.provenance = _provenance(cfg, store, member, total)
    saes.save(sae, tmp / member.name)
    summary = {
        "member": member.label,
        "kind": sae.kind,
        "hook_names": list(member.hook_names),
        "thoughts": None if member.thoughts is None else list(member.thoughts),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "n_vectors": view.n,
        "passes": round(total / view.n, 3),
        "batch_size": settings.batch_size,
        "lr_peak": settings.lr,
        "dead_after_rows": settings.dead_after_rows,
        "n_train": len(sample.x),
        "n_validation": 0 if validation is None else len(validation.x),
        **curve[-1],
    }
    done.parent.mkdir(parents=True, exist_ok=True)
    write_json(done, {"curve": curve, "summary": summary})
    checkpoints.clear()
    return curve, summary


def _start(
    cfg: TrainConfig, store: ActivationStore, member: Member, device: torch.device
) -> tuple[saes.SAE, Rows]:
    """A new SAE fitted to a sample of its rows, and the part of the sample that is measured."""
    n_sample = max(cfg.sample_rows, ROWS_PER_CELL * len(member.cells(store)))
    settled, view = _open(cfg, store, member)
    rows = sample_rows(view, member.cells(store), n_sample, cfg.seed)
    d_out = view.d_out if isinstance(view, JoinedView) else None
    sae = saes.create(settled, view.d_in, seed=cfg.seed, d_out=d_out).to(device)
    sae.hook_names = list(member.hook_names)
    sae.compute_dtype = DTYPES[cfg.dtype]
    y = None if rows.y is None else rows.y.to(device)
    sae.initialize(rows.x.to(device), rows.cell.to(device), rows.cells, y)
    return sae, rows.head(cfg.eval_rows)


def _validation(cfg: TrainConfig, store: ActivationStore, member: Member) -> Rows | None:
    view = _open_if_any(cfg, store, member, cfg.validation_split)
    return None if view is None else sample_rows(view, member.cells(store), cfg.eval_rows, cfg.seed)


def _open(
    cfg: TrainConfig, store: ActivationStore, member: Member
) -> tuple[saes.SAEConfig, View | JoinedView]:
    """The member's architecture with what only the data can say, and the rows it trains on."""
    settled = resolve(cfg.sae, store, member, cfg.split)
    return settled, open_source(settled, store, member, cfg.split, cfg.drop_outliers)


def _open_if_any(
    cfg: TrainConfig, store: ActivationStore, member: Member, split: str
) -> View | JoinedView | None:
    """The member's rows in another split; None where the store has none."""
    settled = resolve(cfg.sae, store, member, cfg.split)
    try:
        return open_source(settled, store, member, split, cfg.drop_outliers)
    except DataError:
        return None


def _n_steps(cfg: TrainConfig, n: int) -> int:
    """Whole batches nearest to the vectors asked for."""
    return max(1, round((cfg.n_vectors or cfg.epochs * n) / cfg.batch_size))


def _settings(cfg: TrainConfig, n: int, sae: saes.SAE) -> Settings:
    n_steps = _n_steps(cfg, n)
    total = n_steps * cfg.batch_size
    return Settings(
        n_steps=n_steps,
        batch_size=cfg.batch_size,
        lr=cfg.lr or cfg.sae.default_lr(sae.d_sae),
        warmup=cfg.warmup,
        decay=cfg.decay,
        grad_clip=cfg.grad_clip,
        dead_after_rows=cfg.dead_after_rows or min(1_000_000, max(1, round(DEAD_SHARE * total))),
        eval_every=math.ceil(n_steps / cfg.evaluations),
        checkpoint_every_s=cfg.checkpoint_every_s,
        seed=cfg.seed,
        resample_every=cfg.resample_every,
    )


def _provenance(cfg: TrainConfig, store: ActivationStore, member: Member, total: int) -> dict[str, Any]:
    meta = store.meta
    return {
        "acts_digest": digest(cfg.acts),
        "model": meta.model,
        "model_revision": meta.model_revision,
        "model_digest": meta.model_digest,
        "modules": {hook: meta.modules.get(hook) for hook in member.hook_names},
        "thought_convention": meta.thought_convention,
        "thoughts": None if member.thoughts is None else list(member.thoughts),
        "split": cfg.split,
        "drop_outliers": cfg.drop_outliers,
        "seed": cfg.seed,
        "rows_seen": total,
    }


def _headline(summaries: list[dict[str, Any]], split: str) -> dict[str, Any]:
    """What says most, as means over the members."""
    n = sum(s["n_validation"] for s in summaries)
    table = {}
    for key in ("fvu_validation", "fvu_within_validation", "l0_validation", "dead_validation"):
        if values := [s[key] for s in summaries if key in s]:
            table[key] = {"value": sum(values) / len(values), "n": n, "split": split}
    return table


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ResourceError("device = 'cuda', and torch finds no GPU here; set train.device=cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _flops_per_s(device: torch.device) -> float:
    """What this machine reaches in a matrix product of training's shape."""
    a, b = torch.ones(256, 512, device=device), torch.ones(512, 2048, device=device)
    (a @ b).sum().item()
    start = time.perf_counter()
    (a @ b).sum().item()
    return 2.0 * 256 * 512 * 2048 / (time.perf_counter() - start)
