"""Many SAEs at once, as the train stage runs them, beside the same SAEs one after another."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import ConfigError, Json, choose_device
from thoughtlens.numerics import kernels
from thoughtlens.ops.bench.clock import timed
from thoughtlens.ops.bench.limits import require_one_of, require_positive, require_room
from thoughtlens.ops.bench.train_step import new_trainer, training_bytes
from thoughtlens.sae import LOSSES, Dtype, StackTrainer, Trainer, stack_size

Work = Callable[[Tensor], None]
"""Something done with the rows of all members, [members, batch, d_in]."""


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
) -> Json:
    """Time a training step of every SAE of a stack, three ways in turn: as the train stage runs them
    (groups side by side), one after another, and one after another with the reference kernels.

    Rows are Gaussian and in memory; one step of each way is not counted. `group_size` 0 is the stage's own
    choice.

    Returns:
        Medians in ms a step of all members, `speedup` and `speedup_reference` (medians of paired ratios),
        `encoder_ms` (the encoders' products alone, side by side like the stack: the floor) and
        `encoder_share` of the stack's step, and settings, threads, kernels.

    Raises:
        ConfigError: a kind that cannot be stacked, sizes below 1, a batch of one row.
        ResourceError: a GPU was asked for, and there is none; or too little memory.
    """
    require_one_of("kind", kind, LOSSES)
    require_one_of("dtype", dtype, get_args(Dtype))
    require_positive(members=members, d_in=d_in, d_sae=d_sae, steps=steps)
    if batch < 2 or group_size < 0:
        raise ConfigError(f"Expected batch >= 2 and group_size >= 0, got {batch} and {group_size}")
    where = choose_device(device)
    require_room(members * (3 * training_bytes(d_in, d_sae) + 4.0 * batch * d_in), where)
    x = torch.randn(members, batch, d_in, generator=torch.Generator().manual_seed(0)).to(where)
    sets = [new_trainers(x, kind, d_sae, k, dtype=dtype, steps=steps + 1) for _ in range(3)]
    size = group_size or stage_size(x, d_sae)
    ways = {
        "stack": side_by_side(grouped_steps(sets[0], size), x.device),
        "loop": partial(_loop, sets[1]),
        "reference": partial(_reference_loop, sets[2]),
        "encoder": side_by_side([partial(_encode, t, i) for i, t in enumerate(sets[1])], x.device),
    }
    runs = [{name: timed(partial(run, x), x) for name, run in ways.items()} for _ in range(steps + 1)][1:]
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
        "encoder_share": statistics.median(run["encoder"] / run["stack"] for run in runs),
    }


def new_trainers(
    x: Float[Tensor, "members batch d_in"], kind: str, d_sae: int, k: int, *, dtype: str, steps: int
) -> list[Trainer]:
    """A trainer for each member's rows."""
    how = {"dtype": dtype, "steps": steps}
    return [new_trainer(rows, kind, d_sae, k, **how, seed=seed) for seed, rows in enumerate(x)]


def stage_size(x: Float[Tensor, "members batch d_in"], d_sae: int) -> int:
    """How many SAEs the train stage puts together."""
    return stack_size(len(x), x.shape[1] * d_sae, x.device, _n_threads(x.device))


def grouped_steps(trainers: Sequence[Trainer], size: int) -> list[Work]:
    """A step of each group of `size` members."""
    if size == 1:
        return [partial(_step, one, i) for i, one in enumerate(trainers)]
    starts = range(0, len(trainers), size)
    return [partial(_step_stack, StackTrainer(trainers[i : i + size]), i) for i in starts]


def side_by_side(work: Sequence[Work], device: torch.device) -> Work:
    """All of it at one call, dealt out over threads as the train stage deals out its groups."""
    n_threads = _n_threads(device)
    pool = ThreadPoolExecutor(n_threads)

    def run(x: Float[Tensor, "members batch d_in"]) -> None:
        if min(n_threads, len(work)) == 1:
            for do in work:
                do(x)
            return
        torch.set_num_threads(1)
        try:
            for future in [pool.submit(do, x) for do in work]:
                future.result()
        finally:
            torch.set_num_threads(n_threads)

    return run


def _n_threads(device: torch.device) -> int:
    return torch.get_num_threads() if device.type == "cpu" else 1


def _step(trainer: Trainer, i: int, x: Float[Tensor, "members batch d_in"]) -> None:
    trainer.step(x[i])


def _step_stack(trainer: StackTrainer, first: int, x: Float[Tensor, "members batch d_in"]) -> None:
    n = len(trainer.trainers)
    trainer.step(x[first : first + n], [None] * n)


def _loop(trainers: Sequence[Trainer], x: Float[Tensor, "members batch d_in"]) -> None:
    for i, trainer in enumerate(trainers):
        trainer.step(x[i])


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
def _encode(trainer: Trainer, i: int, x: Float[Tensor, "members batch d_in"]) -> None:
    trainer.sae.pre_acts(x[i])
