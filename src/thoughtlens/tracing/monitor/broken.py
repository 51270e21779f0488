"""Answers broken at a known thought: each problem once, in one way at one thought."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from thoughtlens.interventions import Change, given, hook_of
from thoughtlens.models import Hook, Place, ThoughtSpec
from thoughtlens.tracing.monitor.config import Error
from thoughtlens.tracing.monitor.watched import Watched

Look = Callable[[Sequence[str], Sequence[Hook], int | None], Watched]
"""The model on questions under hooks, perhaps leaving after some thoughts."""


class Broken(NamedTuple):
    """Some problems with one error."""

    error: Error
    thought: int
    rows: np.ndarray
    seen: Watched


def broken(
    look: Look, base: Watched, spec: ThoughtSpec, errors: Sequence[Error], rng: np.random.Generator
) -> Iterator[Broken]:
    """Every problem again with one error; errors and thoughts are dealt out evenly.

    `swap` and `noise` change what a thought from the second on takes in; `exit` leaves after any but the
    last.
    """
    kinds = _kinds(spec, errors)
    dealt = rng.permutation(len(base.questions)) % max(len(kinds), 1)
    for k, (error, thought) in enumerate(kinds):
        rows = np.flatnonzero(dealt == k)
        if not len(rows):
            continue
        asked = [base.questions[i] for i in rows]
        if error == "exit":
            yield Broken(error, thought, rows, look(asked, (), thought))
        else:
            hook = hook_of(
                Place.at("thought_in", None, thought), _change(error, base, rows, thought, rng), _unseen
            )
            yield Broken(error, thought, rows, look(asked, [hook], None))


def _kinds(spec: ThoughtSpec, errors: Sequence[Error]) -> list[tuple[Error, int]]:
    edited = range(2, spec.n_thoughts + 1) if spec.feeds_back else range(0)
    return [(error, p) for error in errors for p in (range(spec.n_thoughts) if error == "exit" else edited)]


def _change(error: Error, base: Watched, rows: np.ndarray, thought: int, rng: np.random.Generator) -> Change:
    z = base.inputs[:, thought]
    if error == "swap":
        others = (rows + rng.integers(1, len(z), size=len(rows))) % len(z)
        return given(z[torch.from_numpy(others)])
    own = z[torch.from_numpy(rows)]
    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**31)))).to(own)
    noise *= own.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    return Change(lambda x, more: x + more, (noise,))


def _unseen(before: torch.Tensor, after: torch.Tensor) -> None:
    """Nobody asks how large the change was."""
    del before, after
