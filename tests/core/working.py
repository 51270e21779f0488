"""What processes beside a test do."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from thoughtlens.core import ConfigError, Room, say


def speaks(room: Room, text: str) -> str:
    """Say something, part of a line at a time too."""
    say(text)
    sys.stdout.write("printed")
    sys.stdout.write(" here\n")
    sys.stderr.write("not whole")
    return text.upper()


def fails(room: Room) -> None:
    """End with an error of ours."""
    raise ConfigError("a setting is wrong")


def fails_oddly(room: Room) -> None:
    """End with an error that cannot be sent."""

    class Odd(Exception):
        pass

    raise Odd("strange")


def is_killed(room: Room) -> None:
    """End as by the system, which needs the memory."""
    os.kill(os.getpid(), 9)


def takes(room: Room, needed: float, free: float, log: Path, name: str) -> None:
    """Take so much, and note when."""
    room(needed, free)
    for what in ("begins", "ends"):
        with log.open("a") as file:
            file.write(f"{name} {what}\n")
        time.sleep(0.2)


def waits(room: Room) -> None:
    """Until it is ended."""
    time.sleep(600)


def process(room: Room) -> tuple[int, str, str]:
    """Which one it is, where, and with how many threads."""
    return os.getpid(), os.getcwd(), os.environ["OMP_NUM_THREADS"]
