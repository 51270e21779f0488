"""What stages and their parts cost, where somebody asks: time, processor time, memory, bytes moved."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from thoughtlens.core.errors import ThoughtlensError
from thoughtlens.core.records.files import read_json, write_json
from thoughtlens.core.records.record import Record

ASKED = "THOUGHTLENS_PROFILE"
"""Set in the environment: stages are measured, also in the processes that this one starts."""
FILE = "profile.json"
ALL = "whole command"
"""Everything that a command did, start-up and the processes beside it among it."""
HEAD = ("", "times", "seconds", "processor s", "peak MB", "read MB", "written MB")


@dataclass(frozen=True, kw_only=True)
class Cost(Record):
    """What a stage cost, or a part of one; unset where the system does not say."""

    stage: str
    part: str = ""
    """Empty: the stage as a whole."""
    n: int = 1
    """How many times it was done."""
    seconds: float
    processor_seconds: float
    """User and system time of all threads, and of processes that have ended."""
    peak_bytes: int | None = None
    """Most memory that the process held meanwhile."""
    read_bytes: int | None = None
    written_bytes: int | None = None
    """Bytes that passed through system calls, to and from the system's cache; mapped files do not."""

    def line(self) -> tuple[str, ...]:
        """Its cells under `HEAD`; a part is indented."""
        sizes = (self.peak_bytes, self.read_bytes, self.written_bytes)
        return (
            f"  {self.part}" if self.part else self.stage,
            str(self.n),
            f"{self.seconds:.1f}",
            f"{self.processor_seconds:.1f}",
            *("" if size is None else f"{size / 1e6:,.0f}" for size in sizes),
        )


class _Count(NamedTuple):
    """Where the counters of this process stand."""

    seconds: float
    processor_seconds: float
    read: int | None
    written: int | None

    @classmethod
    def now(cls) -> _Count:
        moved = _numbers("/proc/self/io")
        return cls(time.monotonic(), sum(os.times()[:4]), moved.get("rchar"), moved.get("wchar"))


@dataclass
class _Meter:
    """What is being measured."""

    stage: str
    part: str
    begun: _Count
    peak: int | None = None

    def cost(self) -> Cost:
        now, then = _Count.now(), self.begun
        return Cost(
            stage=self.stage,
            part=self.part,
            seconds=round(now.seconds - then.seconds, 3),
            processor_seconds=round(now.processor_seconds - then.processor_seconds, 3),
            peak_bytes=self.peak,
            read_bytes=None if now.read is None or then.read is None else now.read - then.read,
            written_bytes=None if now.written is None or then.written is None else now.written - then.written,
        )


_BEGUN = time.monotonic()
_costs: list[Cost] = []
_open: list[_Meter] = []


@contextmanager
def metered(part: str = "", *, stage: str = "") -> Iterator[None]:
    """Note what the block costs, where that was asked for; parts of no stage, and of other threads, are not.

    Args:
        part: Its name inside of what is being measured around it.
        stage: In its place, a stage.
    """
    around = _open[-1] if _open else None
    here = threading.current_thread() is threading.main_thread()
    if not (os.environ.get(ASKED) and here and (stage or around)):
        yield
        return
    if around and not stage:
        stage, part = around.stage, " / ".join(filter(None, (around.part, part)))
    own = _Meter(stage, part, _Count.now())
    _note_peak()
    _open.append(own)
    try:
        yield
    finally:
        _note_peak()
        _open.remove(own)
        _costs.append(own.cost())


def add_costs(costs: Sequence[Cost]) -> None:
    """Note what another process has measured."""
    _costs.extend(costs)


def taken_costs() -> list[Cost]:
    """What was noted since the last call, one entry for each stage and each of its parts."""
    found = list(_costs)
    _costs.clear()
    alike: dict[tuple[str, str], list[Cost]] = {}
    for one in sorted(found, key=lambda one: bool(one.part)):
        alike.setdefault((one.stage, one.part), []).append(one)
    sums = {key: _sum(costs) for key, costs in alike.items()}
    return [one for stage in dict.fromkeys(s for s, _ in sums) for one in sums.values() if one.stage == stage]


def keep(run: Path) -> list[str]:
    """Write what was noted into the run's `profile.json`, in the place of what it says of the same stages.

    A file that is damaged is made anew: the run that was measured does not fail for it.

    Returns:
        The lines of a table; none where nothing was measured.
    """
    costs = taken_costs()
    if not costs:
        return []
    costs.append(
        Cost(stage=ALL, seconds=round(time.monotonic() - _BEGUN, 3), processor_seconds=_processor_of_all())
    )
    file, new = run / FILE, {one.stage for one in costs}
    there: list[Cost] = []
    with suppress(ThoughtlensError, KeyError, TypeError):
        there = [Cost.from_json(one) for one in read_json(file)["costs"]] if file.is_file() else []
    kept = [one for one in there if one.stage not in new]
    write_json(file, {"costs": [one.to_json() for one in (*kept, *costs)]})
    rows = [HEAD, *(one.line() for one in costs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join((row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))).rstrip() for row in rows
    ]


def _sum(costs: list[Cost]) -> Cost:
    first = costs[0]

    def total(values: list[int | None]) -> int | None:
        return None if None in values else sum(v or 0 for v in values)

    return Cost(
        stage=first.stage,
        part=first.part,
        n=len(costs),
        seconds=round(sum(one.seconds for one in costs), 3),
        processor_seconds=round(sum(one.processor_seconds for one in costs), 3),
        peak_bytes=max((one.peak_bytes for one in costs if one.peak_bytes), default=None),
        read_bytes=total([one.read_bytes for one in costs]),
        written_bytes=total([one.written_bytes for one in costs]),
    )


def _note_peak() -> None:
    """Give what was held since the last call to all that is being measured, and begin anew."""
    peak = _numbers("/proc/self/status").get("VmHWM")
    for one in _open:
        one.peak = max(filter(None, (one.peak, peak and 1024 * peak)), default=None)
    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def _numbers(file: str) -> dict[str, int]:
    """`name: number` lines of a file of the system's; nothing where there is none."""
    try:
        pairs = [line.split(":", 1) for line in Path(file).read_text("ascii").splitlines()]
    except (OSError, ValueError):
        return {}
    numbers = {name: rest.split()[0] for name, rest in pairs if rest.split()}
    return {name: int(number) for name, number in numbers.items() if number.isdigit()}


def _processor_of_all() -> float:
    """Of this process, of those that have ended, and of those that it started and have not."""
    tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    living = 0.0
    for file in Path("/proc/self/task").glob("*/children"):
        for child in file.read_text("ascii").split():
            with suppress(OSError, ValueError):
                behind = Path(f"/proc/{child}/stat").read_text("ascii").rpartition(")")[2].split()
                living += sum(map(int, behind[11:15])) / tick
    return round(sum(os.times()[:4]) + living, 3)
