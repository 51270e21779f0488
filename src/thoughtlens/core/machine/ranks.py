"""Several processes as one, started by torchrun: who they are, and what they exchange."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from thoughtlens.core.errors import ConfigError, ResourceError
from thoughtlens.core.records.record import Json, Outcome
from thoughtlens.core.records.result import Result

PATIENCE_S = 1800.0
"""How long a rank waits for one that is alive, and, say, measuring."""
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets for each process."""
GRACE_S = 3.0
"""How long a rank waits for the reason why another is gone."""


_MEETINGS = itertools.count()


class LostRankError(ResourceError):
    """Another rank has stopped."""


@dataclass(frozen=True)
class Ranks:
    """This process and its peers. One process alone is rank 0 of 1, and exchanges nothing."""

    rank: int = 0
    size: int = 1
    store: Store | None = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, in place; one message a dtype."""
        for dtype in dict.fromkeys(t.dtype for t in tensors) if self.size > 1 else ():
            own = [t.detach() for t in tensors if t.dtype == dtype]
            alone = len(own) == 1 and own[0].is_contiguous()
            flat = own[0] if alone else torch.cat([t.reshape(-1) for t in own])
            with self._peers():
                dist.all_reduce(flat)
            if not alone:
                for t, part in zip(own, flat.split([t.numel() for t in own]), strict=True):
                    t.copy_(part.view(t.shape))

    def gather(self, t: Tensor) -> Tensor:
        """The ranks' tensors, of one shape, along a new first axis."""
        if self.size == 1:
            return t[None]
        parts = [torch.empty_like(t, memory_format=torch.contiguous_format) for _ in range(self.size)]
        with self._peers():
            dist.all_gather(parts, t.detach().contiguous())
        return torch.stack(parts)

    def swap(self, sent: Sequence[Sequence[Tensor]], received: Sequence[Sequence[Tensor]]) -> None:
        """Send `sent[r]` to each other rank r, and fill `received[r]` with what it sends here.

        All contiguous; entries of this rank, and empty tensors, are left alone.
        """
        calls = []
        for peer in (r for r in range(self.size) if r != self.rank):
            for call, tensors in ((dist.isend, sent[peer]), (dist.irecv, received[peer])):
                calls += [
                    dist.P2POp(call, t.detach(), peer, tag=i) for i, t in enumerate(tensors) if t.numel()
                ]
        with self._peers():
            for work in dist.batch_isend_irecv(calls) if calls else ():
                work.wait()

    def collect(self, t: Tensor, axis: int, bounds: Sequence[int]) -> Tensor | None:
        """The ranks' tensors one after the other along `axis`, in the first rank's host memory.

        Args:
            t: Of one shape on all ranks, but that rank r has `bounds[r + 1] - bounds[r]` slices along `axis`.
            axis: Where they are joined.
            bounds: One number more than ranks.

        Returns:
            None on the other ranks.
        """
        mine = t.detach().movedim(axis, 0).contiguous()
        if not self.first:
            with self._peers():
                dist.send(mine, 0)
            return None
        whole = torch.empty(bounds[-1], *mine.shape[1:], dtype=t.dtype)
        whole[: bounds[1]] = mine
        for peer in range(1, self.size):
            part = mine.new_empty(bounds[peer + 1] - bounds[peer], *mine.shape[1:])
            with self._peers():
                dist.recv(part, peer)
            whole[bounds[peer] : bounds[peer + 1]] = part
        return whole.movedim(0, axis)

    def wait(self) -> None:
        """Until every rank is here."""
        self.add([torch.zeros(1)])

    def tell(self, key: str, value: str) -> None:
        """Leave a text for the other ranks."""
        if self.store is not None:
            self.store.set(key, value)

    def hear(self, key: str) -> str:
        """The text that a rank leaves under `key`, once it is there."""
        assert self.store is not None
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with self._peers():
                if self.store.check([key]):
                    return self.store.get(key).decode()
                if self.store.check(["error"]):
                    raise self._lost()
            time.sleep(0.1)
        raise LostRankError(
            f"Rank {self.rank} of {self.size} waited {PATIENCE_S:g} s for the others; start again"
        )

    @contextmanager
    def _peers(self) -> Iterator[None]:
        """A failing exchange means that somebody is gone."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, ResourceError):
                raise
            raise self._lost() from None

    def _lost(self) -> LostRankError:
        reason, end = "without a word (was it killed?)", time.monotonic() + GRACE_S
        while time.monotonic() < end and self.store is not None:
            with contextlib.suppress(RuntimeError):
                if self.store.check(["error"]):
                    reason = self.store.get("error").decode()
                    break
            time.sleep(0.1)
        return LostRankError(
            f"Rank {self.rank} of {self.size} stops, because another one did: {reason}. The last checkpoint "
            f"stands: start the same command again, on as many ranks as you like"
        )


def world() -> tuple[int, int]:
    """(rank, number of ranks) as torchrun says; (0, 1) without it.

    Raises:
        ConfigError: only a part of what torchrun sets, or no numbers.
    """
    said = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")}
    if said["WORLD_SIZE"] in ("", "1"):
        return 0, 1
    if missing := [name for name in TORCHRUN if not os.environ.get(name)]:
        raise ConfigError(
            f"WORLD_SIZE={said['WORLD_SIZE'][:20]} asks for several processes without {', '.join(missing)}: "
            f"start it with torchrun, or unset WORLD_SIZE"
        )
    try:
        rank, size = (int(said[name]) for name in ("RANK", "WORLD_SIZE"))
    except ValueError:
        rank, size = -1, 0
    if not 0 <= rank < size:
        raise ConfigError(
            f"Expected RANK below WORLD_SIZE, got RANK={said['RANK'][:20]!r}, "
            f"WORLD_SIZE={said['WORLD_SIZE'][:20]!r}; torchrun sets both"
        )
    return rank, size


@cache
def _rendezvous() -> tuple[Any, int, int]:
    """The store that the ranks meet in, this rank, their number; made once, for a second one on the same
    port can be missed by a rank that still knows the first."""
    return next(rendezvous("env://", timeout=timedelta(seconds=60)))


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that torchrun has started, for the length of the block.

    An error that leaves the block is told to the others, which then stop with it.
    """
    if world()[1] == 1:
        yield Ranks()
        return
    try:
        store, rank, size = _rendezvous()
    except (RuntimeError, ValueError) as error:
        raise ResourceError(
            f"The other processes do not come to {os.environ['MASTER_ADDR'][:100]}, port "
            f"{os.environ['MASTER_PORT'][:20]} ({str(error).partition(chr(10))[0][:160]}): start all of them "
            f"with torchrun"
        ) from None
    store = PrefixStore(f"thoughtlens {next(_MEETINGS)}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    exchange = PrefixStore("exchange", store)
    patience = timedelta(seconds=PATIENCE_S)
    dist.init_process_group(backend, store=exchange, rank=rank, world_size=size, timeout=patience)
    ranks = Ranks(rank, size, store)
    try:
        yield ranks
    except LostRankError:
        raise
    except BaseException as error:
        with contextlib.suppress(RuntimeError):
            ranks.tell("error", f"rank {rank}: {type(error).__name__}: {error}")
        raise
    finally:
        dist.destroy_process_group()


def led(
    ranks: Ranks,
    stage: Callable[[Callable[[Path], Outcome | Json]], Result],
    work: Callable[[Path], Outcome | Json],
) -> Result:
    """`stage(work)` by the first rank; the others do `work` with it, where there is work.

    Returns:
        The stage's result; on the other ranks nothing.
    """
    if ranks.size == 1:
        return stage(work)
    if not ranks.first:
        if tmp := ranks.hear("work"):
            work(Path(tmp))
        return Result()
    begun = []

    def announced(tmp: Path) -> Outcome | Json:
        begun.append(tmp)
        ranks.tell("work", str(tmp))
        return work(tmp)

    result = stage(announced)
    if not begun:
        ranks.tell("work", "")
    return result
