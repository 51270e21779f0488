"""Which implementation a call gets."""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from thoughtlens.core import ConfigError, say
from thoughtlens.numerics.kernels import reference

VARIABLE = "THOUGHTLENS_KERNELS"
NEEDS = {"cpu": "numba", "triton": "triton"}


def backend(weights: Tensor) -> ModuleType:
    """The module whose kernels work on these weights: by device and dtype, said once each.

    `THOUGHTLENS_KERNELS=reference` in the environment forces the definition.

    Raises:
        ConfigError: another value of the variable.
    """
    forced = os.environ.get(VARIABLE, "auto")
    if forced not in ("auto", "reference"):
        raise ConfigError(f"{VARIABLE}: expected auto or reference, got {forced!r}")
    wanted = {"cpu": "cpu", "cuda": "triton"}.get(weights.device.type)
    if forced == "reference" or wanted is None or weights.dtype != torch.float32:
        return reference
    return _works_on(weights.device) if wanted == "triton" else _load(wanted)


def name(weights: Tensor) -> str:
    """What `backend` chooses: reference, cpu or triton."""
    return backend(weights).__name__.rpartition(".")[2]


@lru_cache
def _load(wanted: str) -> ModuleType:
    try:
        module = importlib.import_module(f"thoughtlens.numerics.kernels.{wanted}")
    except ImportError as error:
        say(f"kernels: reference, since {NEEDS[wanted]} cannot be imported ({error}); training is slower")
        return reference
    if wanted != "triton":
        say(f"kernels: {wanted} (through {NEEDS[wanted]})")
    return module


@lru_cache
def _works_on(device: torch.device) -> ModuleType:
    """Triton's kernels where they compile, start and give the reference's numbers; else the reference."""
    module = _load("triton")
    if module is reference:
        return reference
    reason = importlib.import_module("thoughtlens.numerics.kernels.triton_check").fault(device)
    if reason is not None:
        say(f"kernels: reference, since triton does not work on {device} ({reason}); training is slower")
        return reference
    say(f"kernels: triton on {device}, checked beside the reference")
    return module
