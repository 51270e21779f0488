"""Train a CODI on generated problems, with its controls: `thoughtlens distill codi-tiny`.

Every seed is a chain of jobs in one process with one thread: the model first, then the controls
that start from it. A job that stalls begins again with another random start; a killed run
continues from its checkpoints and ends with the same bytes.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from thoughtlens.core import (
    DataError,
    Number,
    Plan,
    Result,
    leave_with_parent,
    read_json,
    run_stage,
    say,
    write_json,
)
from thoughtlens.models.distill.config import DistillConfig
from thoughtlens.models.distill.loop import Trainer, student_answers, teacher_right
from thoughtlens.models.distill.records import DistillOutcome, TrainedModel
from thoughtlens.models.distill.start import answer_where_the_teacher_looks_up
from thoughtlens.models.distill.tasks import TASKS, HonestTask
from thoughtlens.models.thought import tiny
from thoughtlens.models.thought.tiny_decoder import TinyConfig
from thoughtlens.numerics import wilson
from thoughtlens.problems import arithmetic

RESTART = 1000
"""Added to the seed for each new start of a stalled job."""


MODES: dict[str, Literal["none", "pause"]] = {"no_cot": "none", "pause": "pause"}
"""What takes the place of thoughts in a control."""


def plan(cfg: DistillConfig) -> Plan:
    """Problems seen and time expected (quiet cores), from the config alone."""
    steps = 2500 * len(cfg.seeds) * len(cfg.variants)
    rows = steps * cfg.data.n_contexts * cfg.data.n_queries
    rounds = -(-len(cfg.seeds) // max(cfg.workers, 1)) / len(cfg.seeds)
    return Plan(rows=rows, memory_bytes=6e8 * cfg.workers, disk_bytes=5e6, seconds=steps * 0.2 * rounds)


def distill(cfg: DistillConfig, out: Path) -> Result:
    """Train every seed and variant; `out/seed*/variant/` are model directories for `tiny.load`.

    Raises:
        DataError: a seed stalled at every start.
    """
    return run_stage("distill", cfg, out, lambda tmp: _work(cfg, tmp))


def _work(cfg: DistillConfig, tmp: Path) -> DistillOutcome:
    if cfg.workers == 1 or len(cfg.seeds) == 1:
        for seed in cfg.seeds:
            _train_seed(cfg, seed, tmp)
    else:
        spawn = multiprocessing.get_context("spawn")
        n, leave = min(cfg.workers, len(cfg.seeds)), leave_with_parent
        with ProcessPoolExecutor(n, mp_context=spawn, initializer=leave) as pool:
            jobs = [pool.submit(_train_seed, cfg, seed, tmp) for seed in cfg.seeds]
            for job in jobs:
                job.result()
    shutil.rmtree(tmp / "checkpoints", ignore_errors=True)
    return _result(cfg, tmp)


def _train_seed(cfg: DistillConfig, seed: int, tmp: Path) -> None:
    """Every variant of one seed, one after the other; what is there already is kept."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for variant in cfg.variants:
            if not (tmp / f"seed{seed}" / variant / "config.json").is_file():
                _train(cfg, seed, variant, tmp)
    finally:
        torch.set_num_threads(threads)


def _train(cfg: DistillConfig, seed: int, variant: str, tmp: Path) -> None:
    for attempt in range(cfg.max_restarts + 1):
        checkpoints = tmp / "checkpoints" / f"seed{seed}" / f"{variant}-{attempt}"
        trainer = _trainer(cfg, seed + RESTART * attempt, variant)
        _start(trainer, variant, tmp / f"seed{seed}")
        at = trainer.run(checkpoints, _reporter(f"seed {seed} {variant}"))
        if at.done:
            directory = tmp / f"seed{seed}" / variant
            directory.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(_same_keys(at.log)), directory / "metrics.parquet")
            training = {"seed": at.seed, "attempt": attempt, "steps": at.step, "switches": at.switches}
            accuracy = _final(trainer, cfg.test_problems)
            tiny.save(trainer.finished, directory, training | {"accuracy": accuracy})
            return
        say(
            f"distill: seed {seed} {variant} stalled in its {at.phase} phase at step {at.step}; starting anew"
        )
    raise DataError(
        f"Seed {seed} {variant} stalled at each of {cfg.max_restarts + 1} starts; try another seed, or raise "
        f"loop.max_teacher_steps and loop.max_guided_steps"
    )


def _start(trainer: Trainer, variant: str, models: Path) -> None:
    """Controls start from what is learned already: `no_cot` from the model, `pause` from `no_cot`."""
    if variant == "no_cot":
        trainer.start_from(tiny.read(models / "thoughts")[0])
        answer_where_the_teacher_looks_up(trainer.model, trainer.task.openings)
    elif variant == "pause":
        trainer.start_from(tiny.read(models / "no_cot")[0])


def _trainer(cfg: DistillConfig, seed: int, variant: str) -> Trainer:
    control = variant in ("no_cot", "pause")
    kind = HonestTask if variant == "honest" else TASKS[cfg.data.problems]
    task = kind(cfg.data.p, cfg.data.n_contexts, cfg.data.n_queries)
    model = TinyConfig(
        words=tuple(task.words),
        question_len=task.question_len,
        problems=cfg.data.problems,
        d_in=cfg.net.d_in,
        n_layers=cfg.net.n_layers,
        n_heads=cfg.net.n_heads,
        mode=MODES.get(variant, "thoughts"),
        bottleneck=variant == "bottleneck",
    )
    loop = cfg.control if control else cfg.loop
    if variant == "plain":
        loop = loop.model_copy(update={"step": 0.0, "trajectory": 0.0, "must_pass": False})
    return Trainer(task, model, loop, seed, task.layout)


def _reporter(label: str) -> Callable[[dict | None], None]:
    """Says measurements."""

    def report(row: dict | None) -> None:
        if row is not None:
            numbers = [f"{k.removesuffix('_accuracy')} {v:.3f}" for k, v in row.items() if "accuracy" in k]
            say(f"distill {label}: step {row['step']:,} {row['phase']}, {', '.join(numbers)}")

    return report


def _same_keys(log: list[dict]) -> list[dict]:
    keys = dict.fromkeys(key for row in log for key in row)
    return [{key: row.get(key) for key in keys} for row in log]


def _final(trainer: Trainer, n: int) -> dict[str, list[int]]:
    """(right, n) on held-out problems no measurement of the training has seen."""
    counts = {}
    for k in range(1, arithmetic.N_STEPS + 1):
        batch = trainer.task.test(n, 31_337, k)
        right = student_answers(trainer.model, batch) == batch.answer
        counts[f"answer_{k}"] = [int(right.sum()), n]
        counts[f"teacher_{k}"] = [int(teacher_right(trainer.model, batch).sum()), n]
    return counts


def _result(cfg: DistillConfig, tmp: Path) -> DistillOutcome:
    models = [_trained(tmp, seed, variant) for seed in cfg.seeds for variant in cfg.variants]
    head = {
        f"seed{model.seed}_{k}_steps": replace(model.accuracy[f"answer_{k}"], split="test")
        for model in models
        if model.variant == "thoughts"
        for k in (2, 3)
    }
    write_json(tmp / "models.json", {"models": [model.to_json() for model in models]})
    return DistillOutcome(
        headline=head,
        models=models,
        definitions={
            "answer_k": "right answers / held-out problems of k steps (any path for k = 1); Wilson 95 %",
            "teacher_k": "chains of thought with every token right / problems",
        },
    )


def _trained(tmp: Path, seed: int, variant: str) -> TrainedModel:
    training = read_json(tmp / f"seed{seed}" / variant / "config.json")["training"]
    accuracy = {name: _share(*pair) for name, pair in training["accuracy"].items()}
    return TrainedModel.from_json(training | {"variant": variant, "seed": seed, "accuracy": accuracy})


def _share(right: int, n: int) -> Number:
    return wilson(right, n).number()
