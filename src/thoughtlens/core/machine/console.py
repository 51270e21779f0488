"""Progress on stderr: a live bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thoughtlens.core.machine.profile import keep, metered


def quiet() -> bool:
    """Whether another process under torchrun is the one that speaks."""
    return os.environ.get("RANK", "0") != "0" and os.environ.get("WORLD_SIZE", "1") != "1"


def say(text: str) -> None:
    """One line on stderr; of several processes under torchrun, the first one's."""
    if quiet():
        return
    sys.stderr.write(text.rstrip() + "\n")
    sys.stderr.flush()


def warn(text: str) -> None:
    """A line that the user must not miss."""
    say(f"WARNING: {text}")


_PROFILED: list[Path | None] = []


@contextmanager
def profiled(run: Path | None) -> Iterator[None]:
    """At the end, say what the stages inside the block cost and keep it in the run's `profile.json`, where
    that was asked for; the outermost block does it, and one of no run leaves it to who reads it then."""
    _PROFILED.append(run)
    try:
        yield
    finally:
        _PROFILED.pop()
        if not _PROFILED and run is not None:
            for line in keep(run):
                say(line)


class Progress:
    """Counts units done; says rate and time left. `start` units were done by an earlier run.

    Several threads may advance it, and `stop` ends them all.
    """

    every_s = 15.0

    def __init__(self, label: str, total: int, unit: str = "rows", start: int = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.start = start
        self.t0 = self.last = time.monotonic()
        self.note = ""
        self._lock = threading.Lock()
        self._stopped = False

    def skip(self, n: int) -> None:
        """Count `n` more units that an earlier run did."""
        with self._lock:
            self.done += n
            self.start += n

    def stop(self) -> None:
        """Make every `advance` after this one, in whatever thread, raise KeyboardInterrupt."""
        self._stopped = True

    def advance(self, n: int, note: str = "") -> None:
        """Count `n` more units; `note` (a metric or two) is shown behind the rate."""
        if self._stopped:
            raise KeyboardInterrupt
        with self._lock:
            self._advance(n, note)

    def _advance(self, n: int, note: str) -> None:
        self.done += n
        self.note = note or self.note
        now = time.monotonic()
        live = sys.stderr.isatty()
        if not quiet() and now - self.last > (0.2 if live else self.every_s):
            self.last = now
            sys.stderr.write(f"\r{self.line()}\x1b[K" if live else self.line() + "\n")
            sys.stderr.flush()

    def line(self) -> str:
        """`extract 12,000/200,000 rows, 3,100 rows/s, 61 s left`."""
        rate = (self.done - self.start) / max(time.monotonic() - self.t0, 1e-9)
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        note = f", {self.note}" if self.note else ""
        left_text = f"{left:,.0f} s left" if left < float("inf") else "time left unknown"
        done = f"{self.label} {self.done:,}/{self.total:,} {self.unit}"
        return f"{done}, {rate:,.0f} {self.unit}/s, {left_text}{note}"


@contextmanager
def progress(label: str, total: int, unit: str = "rows", start: int = 0) -> Iterator[Progress]:
    """Show progress while the block runs, and one line with the total time after it."""
    bar = Progress(label, total, unit, start)
    try:
        with metered(label):
            yield bar
    finally:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
        units = unit[:-1] if bar.done == 1 else unit
        say(f"{label}: {bar.done:,} {units} in {time.monotonic() - bar.t0:,.1f} s")
