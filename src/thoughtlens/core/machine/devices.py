"""Devices and number formats, by the names that configs and commands give them."""

from __future__ import annotations

import os
import re
import sys

import torch

from thoughtlens.core.errors import ConfigError, ResourceError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TYPES = ("cpu", "cuda", "mps")


def choose_device(name: str, dtype: torch.dtype | None = None) -> torch.device:
    """The device of that name, if this machine has it; for `auto` the GPU where there is one.

    Each process that torchrun starts gets a GPU of its own for `auto` and `cuda`.

    Args:
        name: auto, cpu, cuda, cuda:N or mps.
        dtype: What a model computes in, for which `auto` also takes a Mac's GPU (mps) that has the format;
            unset: for what needs float64, which no mps has.

    Raises:
        ConfigError: not the name of a device.
        ResourceError: no such device here.
    """
    if name == "auto":
        mps = dtype is not None and torch.backends.mps.is_available() and _on_mps(dtype)
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in TYPES:
        raise ConfigError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
    if device == torch.device("cuda") and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"\. |\n", str(error), maxsplit=1)[0] or type(error).__name__
        raise ResourceError(f"device {name!r} is not available here ({reason}); use cpu") from None
    if device.type == "mps" and dtype is not None and not _on_mps(dtype):
        raise ConfigError(f"device 'mps' does not compute in {str(dtype)[6:]} here; use float32, or the cpu")
    return device


def _on_mps(dtype: torch.dtype) -> bool:
    """Whether a Mac's GPU computes in a format: float64 never, bfloat16 from macOS 14 on."""
    recent = dtype != torch.bfloat16 or torch.backends.mps.is_macos_or_newer(14, 0)
    return dtype != torch.float64 and recent


def free_bytes(device: torch.device) -> float:
    """Memory that is free on a device; on a host that does not say, all there is, or no limit."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            table = dict(line.split(":", 1) for line in file)
        return 1024.0 * int(table["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return float(total_bytes() or sys.maxsize)


def total_bytes() -> int | None:
    """Main memory; None where the system does not say."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def n_cpus() -> int:
    """Processors this process may use, where the system says it; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def n_threads() -> int:
    """Threads that work of this process is dealt out over: its processors, or what `OMP_NUM_THREADS` says."""
    return torch.get_num_threads()
