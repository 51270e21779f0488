"""Work on another thread: in order, bounded, and its errors are not lost."""

from __future__ import annotations

import threading

import pytest

from thoughtlens.acts.extract.background import in_background


def test_everything_is_done_in_order_when_the_block_ends():
    done: list[int] = []
    with in_background(done.append, depth=2) as put:
        for i in range(100):
            put(i)
    assert done == list(range(100))


def test_the_queue_is_bounded():
    go, begun = threading.Event(), []

    def work(item: int) -> None:
        begun.append(item)
        assert go.wait(10)

    def feed(put) -> None:
        for i in range(5):
            put(i)
            queued.append(i)

    queued: list[int] = []
    with in_background(work, depth=2) as put:
        feeder = threading.Thread(target=feed, args=(put,))
        feeder.start()
        feeder.join(0.3)
        # one item is worked on, two wait, the fourth does not fit
        assert feeder.is_alive()
        assert len(queued) <= 3
        go.set()
        feeder.join(10)
    assert begun == list(range(5))


def test_an_error_reaches_the_caller_and_stops_the_work():
    done: list[int] = []

    def work(item: int) -> None:
        if item == 3:
            raise ZeroDivisionError("three")
        done.append(item)

    with pytest.raises(ZeroDivisionError, match="three"), in_background(work, depth=1) as put:
        for i in range(1000):
            put(i)
    assert done == [0, 1, 2]


def test_an_error_of_the_last_item_is_raised_on_leaving():
    with pytest.raises(ZeroDivisionError), in_background(lambda i: 1 / i, depth=4) as put:
        put(0)


def test_an_error_of_the_caller_ends_the_thread():
    with pytest.raises(KeyError), in_background(lambda _: None, depth=4) as put:
        put(0)
        raise KeyError
    assert not [t for t in threading.enumerate() if t.name == "thoughtlens-writer"]
