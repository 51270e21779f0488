"""What the machine has, and what this process may take of it."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import torch

from thoughtlens.core import free_bytes, n_cpus, total_bytes
from thoughtlens.numerics import NEEDS, VARIABLE, kernels
from thoughtlens.ops.doctor.records import Chosen, Disk, Gpu, Memory, Threads

VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    VARIABLE,
    "THOUGHTLENS_CACHE",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "CUDA_VISIBLE_DEVICES",
    "RANK",
    "WORLD_SIZE",
    "WANDB_MODE",
)
CGROUP = Path("/sys/fs/cgroup")


def threads() -> Threads:
    """Cores of the machine, those that this process may use, and the threads that torch starts."""
    allowed = n_cpus()
    quota = _quota()
    usable = allowed if quota is None else max(1, min(allowed, round(quota)))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Threads(
        cores=os.cpu_count(),
        usable=usable,
        quota=quota,
        torch=torch.get_num_threads(),
        load=load,
        cpu=_cpu_name(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        fast_bfloat16=torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
    )


def environment() -> dict[str, str]:
    """The variables that change how it runs, where they are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def memory() -> Memory:
    """Bytes of main memory: all, what may be taken now, and the limit of this container."""
    text = _read(CGROUP / "memory.max").strip()
    limit = int(text) if text.isdigit() else None
    return Memory(total=total_bytes(), available=int(free_bytes(torch.device("cpu"))), limit=limit)


def disk(folders: dict[str, str]) -> dict[str, Disk]:
    """Bytes free where things are written, by what is written there."""
    found = {}
    for name, folder in folders.items():
        path = next(p for p in (Path(folder).absolute(), *Path(folder).absolute().parents) if p.exists())
        found[name] = Disk(path=folder, free=shutil.disk_usage(path).free)
    return found


def gpus() -> list[Gpu]:
    """Every GPU that torch can use: name, memory, capability."""
    found = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(i)
        found.append(
            Gpu(
                name=about.name,
                bytes=about.total_memory,
                free=torch.cuda.mem_get_info(i)[0],
                capability=f"{about.major}.{about.minor}",
            )
        )
    return found


def unused_gpu() -> bool:
    """Whether a GPU is there that torch cannot use."""
    return not torch.cuda.is_available() and any(Path("/dev").glob("nvidia[0-9]*"))


def chosen(device: str) -> Chosen:
    """Which kernels float32 weights get on a device, and why."""
    name = kernels.name(torch.empty(1, device=device))
    fast = {"cpu": "cpu", "cuda": "triton"}[device]
    if name == fast:
        why = f"float32 weights on {device}, and {NEEDS[fast]} is there"
    elif os.environ.get(VARIABLE) == "reference":
        why = f"{VARIABLE}=reference asks for them"
    else:
        why = f"{NEEDS[fast]} cannot be imported, or does not work here"
    return Chosen(kernels=name, why=why)


def _quota() -> float | None:
    """Cores' worth of time that the container may take (cgroup version 2)."""
    parts = _read(CGROUP / "cpu.max").split()
    return int(parts[0]) / int(parts[1]) if len(parts) == 2 and parts[0] != "max" else None


def _cpu_name() -> str:
    lines = _read(Path("/proc/cpuinfo")).splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError:
        return ""
