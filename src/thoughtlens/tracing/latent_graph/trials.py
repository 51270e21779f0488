"""Edges: foretold by the slope, chosen by what would flow through them, and tried by an intervention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.special
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.models import Place
from thoughtlens.tracing.graphs.trials import as_long
from thoughtlens.tracing.latent_graph.origins import Origin
from thoughtlens.tracing.latent_graph.runs import Arrived, Runs

SMALL = 0.01
"""Of a removal, whose effect gives the slope."""
ANSWER = "answer"


class Way(NamedTuple):
    """An edge: from a node on a route to a node."""

    source: str
    target: str
    route: str


class Target(NamedTuple):
    """What can be read, at a cell or of the answer, of the own problem's run."""

    node: str
    latent: int
    """Or the token of the answer."""
    has: float
    """Activation; of the answer, how far its logit is above that of other problems."""


@dataclass(frozen=True, eq=False)
class Found:
    """What came of one edge."""

    effect: float
    at_random: float
    spread: float
    p: float
    over: list[float]
    """The same effect in the twins in which the source is there, in shares of what the own target has."""


@dataclass(frozen=True, eq=False)
class Trials:
    """What is needed to try edges between the nodes of one problem: run 0 of all runs, twins behind it."""

    runs: Runs
    origins: Sequence[Origin]
    targets: Mapping[Place | None, Sequence[Target]]
    batch_size: int

    def slopes(self) -> dict[Way, float]:
        """Every edge by the slope: what would go with its source, as a share of what the target has."""
        found = dict[Way, float]()
        for origin in self.origins:
            for which in torch.arange(len(origin.sources)).split(self.batch_size):
                rows, names = torch.zeros_like(which), _named(origin, which)
                wake = origin.wake(which, rows, SMALL * origin.removals(which, rows))
                for route, target, taken in self._taken(wake.arrivals(), rows):
                    for name, share in zip(names, (taken / SMALL).tolist(), strict=True):
                        if share:
                            found[Way(name, target.node, route)] = share
        return found

    def shares(self) -> dict[str, float]:
        """By node, the share of the answer's change that goes when it alone is taken away."""
        (answer,), found = self.targets[None], dict[str, float]()
        for origin in self.origins:
            for which in torch.arange(len(origin.sources)).split(self.batch_size):
                rows = torch.zeros_like(which)
                end = origin.end(which, rows, origin.removals(which, rows))
                arrived = [("", self.runs.arrive(self.runs.last, end, rows))]
                for _, _, taken in self._taken(iter(arrived), rows):
                    found.update(zip(_named(origin, which), taken.tolist(), strict=True))
        assert answer.node == ANSWER
        return found

    def tried(self, ways: Sequence[Way], n_random: int, seed: int) -> dict[Way, Found]:
        """Each of these edges with its source taken away, beside random directions and in the twins."""
        wanted, found = {*ways}, dict[Way, Found]()
        sources = {way.source for way in ways}
        generator = torch.Generator().manual_seed(seed)
        n_runs, each = len(self.runs), len(self.runs) + n_random
        for origin in self.origins:
            chosen = torch.tensor(
                [i for i, name in enumerate(origin.sources) if name in sources], dtype=torch.long
            )
            for which in chosen.split(max(1, self.batch_size // each)) if len(chosen) else ():
                of, rows = which.repeat_interleave(each), torch.arange(each).repeat(len(which))
                drawn = rows >= n_runs
                rows = torch.where(drawn, 0, rows)
                delta = origin.removals(of, rows)
                delta[drawn] = as_long(delta[drawn], generator)
                there = (delta.flatten(1) != 0).any(1).view(-1, each)[:, 1:n_runs].numpy()
                for route, target, taken in self._taken(origin.wake(of, rows, delta).arrivals(), rows):
                    for name, own, twins in zip(
                        _named(origin, which), taken.view(-1, each).numpy(), there, strict=True
                    ):
                        way = Way(name, target.node, route)
                        if way in wanted:
                            found[way] = judged(float(own[0]), own[n_runs:], own[1:n_runs][twins])
        return found

    def _taken(
        self, arrivals: Iterator[tuple[str, Arrived]], rows: Tensor
    ) -> Iterator[tuple[str, Target, Float[Tensor, " n"]]]:
        """By route and target, what went with the source, as a share of what the target has."""
        for route, arrived in arrivals:
            for place, now in arrived.items():
                if targets := self.targets[place]:
                    lost = self._read(place, self._own(place))[rows] - self._read(place, now)
                    for j, target in enumerate(targets):
                        yield route, target, lost[:, j].double() / target.has

    def _own(self, place: Place | None) -> Tensor:
        return self.runs.logits if place is None else self.runs.x[place]

    def _read(self, place: Place | None, x: Tensor) -> Float[Tensor, "n targets"]:
        latents = [target.latent for target in self.targets[place]]
        return x[:, latents] if place is None else self.runs.cell(place).pre(x, latents)


def _named(origin: Origin, which: Tensor) -> list[str]:
    return [origin.sources[int(i)] for i in which]


def judged(own: float, drawn: np.ndarray, twins: np.ndarray) -> Found:
    """Whether one effect stands out from those of random directions: Student's t of one further draw."""
    mean, spread = float(drawn.mean()), float(drawn.std(ddof=1))
    error = max(spread * (1 + 1 / len(drawn)) ** 0.5, 1e-12)
    p = float(2 * scipy.special.stdtr(len(drawn) - 1, -abs(own - mean) / error))
    return Found(own - mean, mean, spread, p, [float(one) - mean for one in twins])
