"""Several processes as one, started by torchrun: who they are, what they exchange, data parallel training."""

from __future__ import annotations

import contextlib
import itertools
import math
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
from jaxtyping import Int
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from thoughtlens import kernels
from thoughtlens.errors import ConfigError, ResourceError
from thoughtlens.sae.base import SAE, Batch, LossTerms, SparseActs, counts
from thoughtlens.training.loop import Settings, Trainer
from thoughtlens.training.schedule import lr_at

ADDITIVE = ("topk", "relu", "gated")
"""Kinds whose loss is a mean over rows (but for auxk, which is brought to the whole batch's scale)."""
PATIENCE_S = 1800.0
"""How long a rank waits for one that is alive, and, say, measuring."""
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
            own = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.detach().reshape(-1) for t in own])
            with self._peers():
                dist.all_reduce(flat)
            for t, part in zip(own, flat.split([t.numel() for t in own]), strict=True):
                t.detach().copy_(part.view(t.shape))

    def gather(self, t: Tensor, axis: int) -> Tensor:
        """The ranks' tensors, of one shape but for `axis`, one after the other along it."""
        if self.size == 1:
            return t
        lengths = torch.zeros(self.size, dtype=torch.long, device=t.device)
        lengths[self.rank] = t.shape[axis]
        self.add([lengths])
        longest = int(lengths.max())
        mine = t.detach().movedim(axis, 0)
        padded = torch.cat([mine, mine.new_zeros(longest - len(mine), *mine.shape[1:])]).contiguous()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with self._peers():
            dist.all_gather(parts, padded)
        whole = torch.cat([p[:n] for p, n in zip(parts, lengths.tolist(), strict=True)])
        return whole.movedim(0, axis).contiguous()

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
    """(rank, number of ranks) as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


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
    store, rank, size = _rendezvous()
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
    stage: Callable[[Callable[[Path], dict[str, Any]]], dict[str, Any]],
    work: Callable[[Path], dict[str, Any]],
) -> dict[str, Any]:
    """`stage(work)` by the first rank; the others do `work` with it, where there is work.

    Returns:
        The stage's result; on the other ranks nothing.
    """
    if ranks.size == 1:
        return stage(work)
    if not ranks.first:
        if tmp := ranks.hear("work"):
            work(Path(tmp))
        return {}
    begun = []

    def announced(tmp: Path) -> dict[str, Any]:
        begun.append(tmp)
        ranks.tell("work", str(tmp))
        return work(tmp)

    result = stage(announced)
    if not begun:
        ranks.tell("work", "")
    return result


class DataParallelTrainer(Trainer):
    """A whole SAE on every rank, each with its rows of the batch; gradients are summed before every update.

    The sum of the ranks' losses is the loss of one process on the whole batch, and so are, up to the order
    of sums, gradients and weights. Every rank holds the whole state, and any one can write it.

    Args:
        sae: The same on every rank.
        settings: `batch_size` counts the rows of all ranks together.
        ranks: Who takes part.

    Raises:
        ConfigError: a kind whose loss is not a mean over rows, or resampling, which looks at one batch.
    """

    def __init__(self, sae: SAE, settings: Settings, ranks: Ranks):
        super().__init__(sae, settings)
        self.ranks, self.share = ranks, (ranks.rank, ranks.size)
        if sae.kind not in ADDITIVE or settings.resample_every is not None:
            what = f"kind = {sae.kind}" if sae.kind not in ADDITIVE else "resample_every"
            raise ConfigError(
                f"{what} cannot be trained by {ranks.size} ranks at once: expected "
                f"{', '.join(ADDITIVE)}, without resampling. Train it in one process, or several SAEs with "
                f"train.parallel=members"
            )

    def step(
        self,
        x: Tensor,
        cell: Int[Tensor, " batch"] | None = None,
        y: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> LossTerms:
        """As `Trainer.step`, on this rank's rows."""
        s, sae = self.settings, self.sae
        batch = Batch(x, y, cell, dead=self.tracker.dead, labels=labels, progress=self.step_idx / s.n_steps)
        loss = sae.loss(batch)
        share = len(x) / s.batch_size
        factors = {name: share for name in loss.terms}
        if "auxk" in factors and bool(self.tracker.dead.any()):
            factors["auxk"] = self._residual_share(batch, loss)
        terms = {name: factors[name] * term for name, term in loss.terms.items()}
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        sums = torch.stack([term.detach().double() for term in terms.values()])
        fired = counts(loss.acts, sae.d_sae)
        grads = [p.grad for p in sae.parameters() if p.grad is not None]
        self.ranks.add([*grads, sums, fired])
        self._update(dict(zip(terms, sums.tolist(), strict=True)), fired)
        return loss

    def _update(self, terms: dict[str, float], fired: Int[Tensor, " d_sae"]) -> None:
        """Clip, step and count, alike on every rank."""
        s, total, length = self.settings, sum(terms.values()), self.grad_norm()
        if not math.isfinite(total + length):
            raise FloatingPointError(f"loss {total}, gradient norm {length}")
        factor = s.grad_clip / (length + 1e-6) if 0 < s.grad_clip < length else 1.0
        lr = lr_at(self.step_idx, s.n_steps, s.lr, s.warmup, s.decay)
        self.optimizer.step(lr, factor=factor, unit=True)
        self.tracker.update(fired, s.batch_size)
        numbers = {"loss": total, **{f"loss_{name}": value for name, value in terms.items()}}
        self.means.add(numbers | {"l0_train": self.n_fired(fired) / s.batch_size})
        self.step_idx += 1

    def grad_norm(self) -> float:
        """Length of the whole gradient."""
        return self.optimizer.norm().item()

    def n_fired(self, fired: Int[Tensor, " d_sae"]) -> float:
        """Activations on the batch."""
        return fired.sum().item()

    @torch.no_grad()
    def _residual_share(self, batch: Batch, loss: LossTerms) -> float:
        """The scale of this rank's auxk term over that of the whole batch: a term is error / scale."""
        acts, sae = loss.acts, self.sae
        if isinstance(acts, SparseActs):
            decoded = kernels.decode(acts.values, acts.indices, sae.W_dec)
        else:
            decoded = kernels.decode_acts(acts, sae.W_dec, sae.W_dec.dtype)
        residual = (sae.target(batch) - decoded - sae.b_dec).double()
        own = (residual - residual.mean(0)).square().sum()
        total = torch.cat(
            [residual.sum(0), residual.square().sum()[None], residual.new_tensor([len(residual)])]
        )
        self.ranks.add([total])
        whole = total[-2] - total[:-2].square().sum() / total[-1]
        return (own / whole.clamp_min(torch.finfo(torch.float64).tiny)).item()
