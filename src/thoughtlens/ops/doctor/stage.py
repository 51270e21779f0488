"""What a user, or someone who helps one, must know about an installation."""

from __future__ import annotations

from typing import Any

import torch

from thoughtlens.ops.doctor import installed, machine
from thoughtlens.ops.doctor.advice import advice, broken
from thoughtlens.ops.doctor.render import render
from thoughtlens.ops.doctor.speed import speed

__all__ = ["doctor", "render"]


def doctor(*, measure: bool = True) -> dict[str, Any]:
    """Look at the installation and the machine.

    Args:
        measure: Also measure how fast it is, which takes some seconds.

    Returns:
        `versions, packages, extras, kernels, threads, environment, memory, disk, gpus, unused_gpu, cache,
        bundled`, `speed` by device (bytes, GFLOP/s and ms), `advice` (what would help), and `broken` (what
        must be mended).
    """
    cache = installed.cache()
    report = {
        "versions": installed.versions(),
        "packages": installed.packages(),
        "extras": installed.extras(),
        "kernels": machine.chosen_kernels(),
        "threads": machine.threads(),
        "environment": machine.environment(),
        "memory": machine.memory(),
        "disk": machine.disk({"here": ".", "cache": cache["path"]}),
        "gpus": machine.gpus(),
        "unused_gpu": machine.unused_gpu(),
        "cache": cache,
        "bundled": installed.bundled(),
    }
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    report["speed"] = {device: speed(device) for device in devices} if measure else {}
    return report | {"advice": advice(report), "broken": broken(report)}
