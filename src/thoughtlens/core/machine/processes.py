"""Processes beside this one: they start with what they need imported, and none outlives this one."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from thoughtlens.core.errors import ResourceError
from thoughtlens.core.machine.console import say

THREADS = "OMP_NUM_THREADS"
GRACE_S = 20.0
"""How long a process that is told to stop may take to leave things in order."""
Room = Callable[[float, float], None]
"""Given to work beside others: waits until it may take so many bytes, of so many that are free."""


def leave_with_parent() -> None:
    """End this process as soon as the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_it, daemon=True).start()


class Ended(NamedTuple):
    """What came of work beside this process."""

    name: str
    value: Any = None
    error: BaseException | None = None


class _Worker:
    """A process and what is known of it."""

    def __init__(self, name: str, process: BaseProcess) -> None:
        self.name, self.process = name, process
        self.bytes: float | None = None
        """What it was given room for."""
        self.asks: tuple[float, float] | None = None
        """What it waits for: bytes, of so many that are free."""


class Beside:
    """Work in other processes, which are ended with the block.

    They are forked from one that has imported what they need, and that has used none of it: a process whose
    libraries have started threads cannot be forked. Where the system cannot fork, each starts anew.

    Args:
        modules: What they need.
        threads: Of each process.
    """

    def __init__(self, modules: Sequence[str], threads: int) -> None:
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        self._threads = threads
        self._workers: dict[Any, _Worker] = {}
        if forks:
            self._context.set_forkserver_preload(list(modules))
            with _environment(THREADS, str(threads)):
                forkserver.ensure_running()

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._workers.values():
            one.process.terminate()
        for one in self._workers.values():
            one.process.join(GRACE_S)
            one.process.kill()
            one.process.join()
        self._workers.clear()

    @property
    def names(self) -> list[str]:
        """What is being done."""
        return [one.name for one in self._workers.values()]

    def start(self, name: str, work: Callable[..., Any], *arguments: Any) -> None:
        """Do `work(room, *arguments)` in a process; all of it can be pickled. What it says is said here."""
        here, there = self._context.Pipe()
        what = (there, _Place(os.getcwd(), self._threads), work, arguments)
        process = self._context.Process(target=_serve, args=what, daemon=True)
        with _environment(THREADS, str(self._threads)):
            process.start()
        there.close()
        self._workers[here] = _Worker(name, process)

    def ended(self) -> list[Ended]:
        """What has ended, once something has."""
        over: list[Ended] = []
        while not over:
            for pipe in wait(list(self._workers)):
                if (end := self._hear(pipe)) is not None:
                    over.append(end)
                self._give_room()
        return over

    def _hear(self, pipe: Any) -> Ended | None:
        """Take one message of a worker."""
        worker = self._workers[pipe]
        kind, what = "error", None
        with suppress(EOFError, OSError):  # of one that was ended without a word
            kind, what = pipe.recv()
        if kind == "said":
            line = str(what)
            say(line if line.startswith(worker.name) else f"{worker.name}: {line}")
        elif kind == "asks":
            worker.asks = what
        else:
            del self._workers[pipe]
            worker.process.join()
            if kind == "value":
                return Ended(worker.name, what)
            return Ended(worker.name, None, what or _killed(worker))
        return None

    def _give_room(self) -> None:
        """Let those go on that fit beside what has room already, or that are alone."""
        for pipe, one in self._workers.items():
            if one.asks is None:
                continue
            taken = [other.bytes for other in self._workers.values() if other.bytes is not None]
            needed, free = one.asks
            if not taken or needed + sum(taken) <= free:
                one.bytes, one.asks = needed, None
                with suppress(OSError):  # of one that has just ended
                    pipe.send(None)


def _killed(worker: _Worker) -> ResourceError:
    code = worker.process.exitcode or 0
    how = f"by signal {-code}" if code < 0 else f"with status {code}"
    return ResourceError(
        f"{worker.name} was ended from outside, {how} (too little memory?); run the same command again, it "
        f"continues from what is finished, or one stage at a time with --jobs 1"
    )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """With a variable, for what is started inside the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _Said(io.TextIOBase):
    """A stream whose whole lines go to the parent."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        self._send, self._rest = send, ""

    def write(self, text: str, /) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._send("said", line)
        return len(text)


class _Place(NamedTuple):
    """Where work is done, whatever the process was forked from."""

    folder: str
    threads: int

    def enter(self) -> None:
        os.chdir(self.folder)
        os.environ[THREADS] = str(self.threads)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(self.threads)


def _serve(pipe: Connection, place: _Place, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """In the process: do the work, and send what is said and what comes of it."""
    leave_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's, which goes to all; the parent ends them
    signal.signal(signal.SIGTERM, _stop)
    place.enter()
    lock = threading.Lock()

    def send(kind: str, what: Any) -> None:
        with lock, suppress(BrokenPipeError):
            pipe.send((kind, what))

    def room(needed: float, free: float) -> None:
        send("asks", (needed, free))
        pipe.recv()

    sys.stderr = sys.stdout = _Said(send)
    try:
        send("value", work(room, *arguments))
    # Whatever it is, the parent raises it.
    except Exception as error:
        error.add_note(traceback.format_exc())
        send("error", _portable(error))
    except KeyboardInterrupt:  # the parent stops, and says so
        pass


def _portable(error: Exception) -> Exception:
    """The error, or what it says where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    # An error pickles itself by code of its own, which can fail in any way.
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
