"""Hand work to another thread, in order, with a bounded queue between."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_background(work: Callable[[T], None], depth: int) -> Iterator[Callable[[T], None]]:
    """A function that queues its argument for `work` and waits only while `depth` items are queued.

    Leaving the block waits until everything queued is done. The first error of `work` is raised by the
    next call or on leaving; nothing is worked on after it.
    """
    waiting: queue.Queue[tuple[T] | None] = queue.Queue(maxsize=depth)
    errors: list[BaseException] = []

    def loop() -> None:
        while (item := waiting.get()) is not None:
            if not errors:
                try:
                    work(*item)
                except BaseException as error:  # raised again on the caller's thread
                    errors.append(error)

    def put(item: T) -> None:
        if errors:
            raise errors[0]
        waiting.put((item,))

    thread = threading.Thread(target=loop, name="thoughtlens-writer", daemon=True)
    thread.start()
    try:
        yield put
    finally:
        waiting.put(None)
        thread.join()
    if errors:
        raise errors[0]
