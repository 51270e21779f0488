"""What a benchmark refuses before it takes memory or disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from thoughtlens.core import ConfigError, ResourceError, free_bytes


def require_positive(**numbers: float) -> None:
    """Raise ConfigError that names the first number that is not above 0 and finite."""
    for name, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name}: expected a number above 0, got {value}")


def require_one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise ConfigError where `value` is none of the allowed words."""
    if value not in allowed:
        raise ConfigError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")


def require_room(n_bytes: float, device: torch.device) -> None:
    """Raise ResourceError where the least that a benchmark holds at once is more than there is."""
    if n_bytes > (free := free_bytes(device)):
        raise ResourceError(_short("memory", n_bytes, free, str(device)))


def require_disk(n_bytes: float, folder: Path) -> None:
    """Raise ResourceError where `folder` is on a disk without that much left."""
    if n_bytes > (free := shutil.disk_usage(folder).free):
        raise ResourceError(_short("disk", n_bytes, free, str(folder)))


def _short(what: str, needed: float, free: float, where: str) -> str:
    return (
        f"These sizes need at least {needed / 1e9:,.1f} GB of {what}, and {free / 1e9:,.1f} GB are free on "
        f"{where}; choose smaller ones"
    )
