"""Many SAEs at once, as the train stage runs them, beside the same SAEs one after another."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens import kernels
from thoughtlens.bench.clock import timed
from thoughtlens.bench.train_step import new_trainer
from thoughtlens.devices import choose_device
from thoughtlens.errors import ConfigError
from thoughtlens.sae.stack import LOSSES
from thoughtlens.train import DTYPES
from thoughtlens.train.groups import stack_size
from thoughtlens.training.loop import Trainer
from thoughtlens.training.together import StackTrainer


def bench_stack(
    *,
    members: int = 42,
    d_in: int = 192,
    d_sae: int = 1536,
    batch: int = 1024,
    kind: str = "topk",
    k: int = 32,
    dtype: str = "float32",
    steps: int = 5,
    group_size: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Time a training step of every SAE of a stack, three ways in turn: as the train stage runs them
    (groups side by side), one after another, and one after another with the reference kernels.

    Rows are Gaussian and in memory; one step of each way is not counted. `group_size` 0 is the stage's own
    choice.

    Returns:
        Medians in ms a step of all members, `speedup` and `speedup_reference` (medians of paired ratios),
        `encoder_ms` (the encoders' products alone: the floor), and settings, threads, kernels.

    Raises:
        ConfigError: a kind that cannot be stacked, or sizes below 1.
        ResourceError: a GPU was asked for, and there is none.
    """
    if kind not in LOSSES or dtype not in DTYPES or min(members, batch, steps) < 1 or group_size < 0:
        raise ConfigError(
            f"Expected kind in {list(LOSSES)}, dtype in {list(DTYPES)}, members, batch and steps >= 1; got "
            f"{kind!r}, {dtype!r}, {members}, {batch}, {steps}"
        )
    where = choose_device(device)
    x = torch.randn(members, batch, d_in, generator=torch.Generator().manual_seed(0)).to(where)
    sets = [_trainers(x, kind, d_sae, k, dtype, steps) for _ in range(3)]
    n_threads = torch.get_num_threads() if x.device.type == "cpu" else 1
    size = group_size or stack_size(members, batch * d_sae, x.device, n_threads)
    with _side_by_side(sets[0], x, size, n_threads) as stack:
        ways = {
            "stack": stack,
            "loop": lambda: _loop(sets[1], x),
            "reference": lambda: _reference_loop(sets[2], x),
            "encoder": lambda: _encoders(sets[1], x),
        }
        runs = [{name: timed(run, x) for name, run in ways.items()} for _ in range(steps + 1)][1:]
    return {
        "benchmark": "stack",
        "members": members,
        "kind": kind,
        "d_in": d_in,
        "d_sae": d_sae,
        "batch": batch,
        "k": getattr(sets[0][0].sae.cfg, "k", None),
        "dtype": dtype,
        "device": device,
        "steps": steps,
        "group_size": min(size, members),
        "threads": torch.get_num_threads(),
        "kernels": kernels.name(sets[0][0].sae.W_enc),
        **{f"{name}_ms": statistics.median(run[name] for run in runs) for name in ways},
        "speedup": statistics.median(run["loop"] / run["stack"] for run in runs),
        "speedup_reference": statistics.median(run["reference"] / run["stack"] for run in runs),
    }


def _trainers(
    x: Float[Tensor, "members batch d_in"], kind: str, d_sae: int, k: int, dtype: str, steps: int
) -> list[Trainer]:
    return [new_trainer(rows, kind, d_sae, k, dtype, steps + 1, seed) for seed, rows in enumerate(x)]


@contextmanager
def _side_by_side(
    trainers: Sequence[Trainer], x: Float[Tensor, "members batch d_in"], size: int, n_threads: int
) -> Iterator[Callable[[], None]]:
    """A step of all members, in groups on as many threads as the train stage takes."""
    starts = range(0, len(trainers), size)
    groups = [trainers[i] if size == 1 else StackTrainer(trainers[i : i + size]) for i in starts]

    def step(group: Trainer | StackTrainer, first: int) -> None:
        if isinstance(group, StackTrainer):
            group.step(x[first : first + size], [None] * len(group.trainers))
        else:
            group.step(x[first])

    with ThreadPoolExecutor(n_threads) as pool:

        def run() -> None:
            if min(n_threads, len(groups)) == 1:
                for group, first in zip(groups, starts, strict=True):
                    step(group, first)
                return
            torch.set_num_threads(1)
            try:
                list(pool.map(step, groups, starts))
            finally:
                torch.set_num_threads(n_threads)

        yield run


def _loop(trainers: Sequence[Trainer], x: Float[Tensor, "members batch d_in"]) -> None:
    for trainer, rows in zip(trainers, x, strict=True):
        trainer.step(rows)


def _reference_loop(trainers: Sequence[Trainer], x: Float[Tensor, "members batch d_in"]) -> None:
    before = os.environ.get("THOUGHTLENS_KERNELS")
    os.environ["THOUGHTLENS_KERNELS"] = "reference"
    try:
        _loop(trainers, x)
    finally:
        if before is None:
            del os.environ["THOUGHTLENS_KERNELS"]
        else:
            os.environ["THOUGHTLENS_KERNELS"] = before


@torch.no_grad()
def _encoders(trainers: Sequence[Trainer], x: Float[Tensor, "members batch d_in"]) -> None:
    for trainer, rows in zip(trainers, x, strict=True):
        trainer.sae.pre_acts(rows)
