"""Which SAEs are trained as one batched program."""

from __future__ import annotations

from typing import Literal

import torch

from thoughtlens.core import ResourceError, free_bytes, say
from thoughtlens.sae.fit.job import Job
from thoughtlens.sae.fit.sources import JoinedView, weights
from thoughtlens.sae.kinds.stack import stack_key

MOST_ACTS = 1 << 20
"""Activations of a step on a CPU, up to which SAEs together are faster than one by one: with more of them the
work outweighs what is saved between operations, and leaves the cache."""


def plan_groups(
    jobs: list[Job], device: torch.device, group_size: int | Literal["auto"], n_threads: int, n_ranks: int = 1
) -> list[list[Job]]:
    """Jobs of equal shape together, in order; groups of one where a kind has no batched loss.

    `auto` leaves work for each thread of each rank. On the CPU it puts small SAEs together, on a GPU what its
    memory holds.

    Raises:
        ResourceError: groups of the size asked for, or an SAE alone, do not fit into memory.
    """
    shapes: dict[object, list[Job]] = {}
    for job in jobs:
        key = _key(job)
        shapes.setdefault(job if key is None else key, []).append(job)
    groups = []
    for same in shapes.values():
        require_memory(same[0], device)
        size = _size(same, device, group_size, n_threads, n_ranks) if len(same) > 1 else 1
        groups += [same[i : i + size] for i in range(0, len(same), size)]
    return groups


def require_memory(job: Job, device: torch.device, bytes_per_weight: float = 16.0) -> None:
    """Raise ResourceError where not even weights, gradient and moments have room, here or on this rank."""
    least, free = bytes_per_weight * job.n_weights, free_bytes(device)
    if least > free:
        raise ResourceError(
            f"An SAE of {job.d_sae:,} latents needs {_gb(least)} for weights, gradient and moments, and "
            f"{_gb(free)} are free on {device}; lower sae.d_sae, or spread its latents over more processes "
            f"(train.parallel=latents)"
        )


def memory_bytes(job: Job) -> float:
    """Of one SAE in training: weights, gradient, moments and a product of half of them; a batch, the sample
    that it starts from."""
    cfg, d = job.cfg, weights(job.source)
    rows = 4 * job.batch_size * job.d_sae + 3 * (cfg.sample_rows + job.batch_size) * d // 2
    return 4.0 * (4.5 * job.n_weights + rows)


def _key(job: Job) -> object | None:
    """What SAEs of one group have in common; None: cannot be stacked."""
    cfg, source = job.cfg, job.source
    key = stack_key(job.sae_cfg, source.d_in)
    if key is None or cfg.resample_every is not None or isinstance(source, JoinedView):
        return None
    return key, job.batch_size, cfg.dtype


def _size(
    jobs: list[Job], device: torch.device, group_size: int | Literal["auto"], n_threads: int, n_ranks: int
) -> int:
    each = max(memory_bytes(job) for job in jobs)
    free = free_bytes(device)
    at_once = min(n_threads, len(jobs))
    fits = max(1, int(free / each / at_once))
    if isinstance(group_size, int):
        size = min(group_size, len(jobs))
        if size > fits:
            raise ResourceError(
                f"A stack of {size} SAEs needs about {_gb(size * each)}, {at_once} at once, and "
                f"{_gb(free)} are free; set train.group_size={fits}, or auto"
            )
        return size
    wanted = stack_size(len(jobs), jobs[0].batch_size * jobs[0].d_sae, device, n_threads * n_ranks)
    if fits < wanted:
        say(
            f"train: a stack of {wanted} SAEs needs about {_gb(wanted * each)}, {_gb(free)} are free: "
            f"groups of {fits}"
        )
    return min(wanted, fits)


def stack_size(n: int, n_acts: int, device: torch.device, n_workers: int) -> int:
    """How many of n SAEs of one shape are fastest together, whatever memory there is.

    `n_acts` is the number of activations of a step of one of them.
    """
    each = -(-n // n_workers)
    return each if device.type != "cpu" else max(1, min(MOST_ACTS // n_acts, each))


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
