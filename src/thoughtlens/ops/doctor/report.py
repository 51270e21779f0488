"""What a user, or someone who helps one, must know about an installation."""

from __future__ import annotations

from dataclasses import replace

import torch

from thoughtlens.ops.doctor import installed, machine
from thoughtlens.ops.doctor.advice import advice, broken
from thoughtlens.ops.doctor.records import Report
from thoughtlens.ops.doctor.speed import speed


def doctor(*, measure: bool = True) -> Report:
    """Look at the installation and the machine.

    Args:
        measure: Also measure how fast it is, which takes some seconds.
    """
    cache = installed.cache()
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    report = Report(
        versions=installed.versions(),
        packages=installed.packages(),
        extras=installed.extras(),
        kernels={device: machine.chosen(device) for device in devices},
        threads=machine.threads(),
        environment=machine.environment(),
        memory=machine.memory(),
        disk=machine.disk({"here": ".", "cache": cache.path}),
        gpus=machine.gpus(),
        unused_gpu=machine.unused_gpu(),
        cache=cache,
        bundled=installed.bundled(),
        speed={device: speed(device) for device in devices} if measure else {},
    )
    return replace(report, advice=advice(report), broken=broken(report))
