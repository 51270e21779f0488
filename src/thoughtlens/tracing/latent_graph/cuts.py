"""A graph put to the test: nodes that carry another problem's values, and what is left of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from thoughtlens.models import Hook, Place
from thoughtlens.tracing.latent_graph.cells import Cell
from thoughtlens.tracing.latent_graph.runs import (
    ALIKE,
    Memory,
    Runs,
    answered,
    changed,
    remembered,
    thought_through,
)


class Part(NamedTuple):
    """What a node is: a latent, or the error (None), of a cell; or a word of the question."""

    place: Place | None
    latent: int | None = None
    position: int | None = None


class Left(NamedTuple):
    """What is left of the answer."""

    same: float
    """Share of runs that still give it."""
    share: float | None
    """Of the way of its logit from that in the other problem to that in the own one, mean over runs; None:
    there is no way, but for rounding."""


@dataclass(frozen=True, eq=False)
class Cuts:
    """The own run (row 0 of `own`), and runs of other problems of equal length."""

    own: Runs
    donors: Runs
    token: int
    """The answer's first."""
    parts: Mapping[str, Part]
    bare: list[Place]

    def cut(self, nodes: Set[str]) -> Left:
        """These nodes carry the other problems' values; all else follows."""
        hooks = [hook for cell in self.own.cells for hook in self._replaced(cell, self._latents(nodes, cell))]
        return self._left(self._words(nodes), hooks)

    def keep(self, nodes: Set[str]) -> Left:
        """These nodes carry the own values; all else is the other problems', places without an SAE too."""
        kept = {cell.place: self._kept(cell, self._latents(nodes, cell)) for cell in self.own.cells}
        kept |= {place: self.donors.x[place] for place in self.bare}
        hooks = [changed(place, lambda _, x=x: x) for place, x in kept.items()]
        return self._left(~self._words(nodes), hooks)

    def length(self, node: str) -> float:
        """How far the own value of a node is from the other problems', mean."""
        part = self.parts[node]
        if part.place is None:
            pairs = zip(self._memory, self.donors.memory, strict=True)
            apart = [
                (a - b)[:, :, part.position].flatten(1)
                for own, theirs in pairs
                for a, b in zip(own, theirs, strict=True)
            ]
            return float(torch.cat(apart, 1).norm(dim=1).mean())
        kept = self._kept(self.own.cell(part.place), {part.latent})
        return float((kept - self.donors.x[part.place]).norm(dim=1).mean())

    @cached_property
    def _memory(self) -> Memory:
        n = len(self.donors)
        return [(k[:1].expand(n, -1, -1, -1), v[:1].expand(n, -1, -1, -1)) for k, v in self.own.memory]

    def _words(self, nodes: Set[str]) -> Tensor:
        """Which positions of the question are among the nodes."""
        found = torch.zeros(self.own.states[0].mask.shape[1], dtype=torch.bool)
        at = [part.position for name in nodes if (part := self.parts[name]).position is not None]
        found[torch.tensor(at, dtype=torch.long)] = True
        return found

    def _latents(self, nodes: Set[str], cell: Cell) -> set[int | None]:
        return {part.latent for name in nodes if (part := self.parts[name]).place == cell.place}

    def _kept(self, cell: Cell, latents: Set[int | None]) -> Tensor:
        """The other problems' states with the own values of these latents, and the own error for None."""
        own, x = self.own.x[cell.place][:1].expand(len(self.donors), -1), self.donors.x[cell.place]
        return _exchanged(cell, x, own, latents)

    def _replaced(self, cell: Cell, latents: Set[int | None]) -> list[Hook]:
        other = self.donors.x[cell.place]
        return [changed(cell.place, lambda x: _exchanged(cell, x, other.to(x), latents))] if latents else []

    def _left(self, theirs: Tensor, hooks: list[Hook]) -> Left:
        """With the other problems' words at these positions, under hooks."""
        pairs = zip(self._memory, self.donors.memory, strict=True)
        where = theirs[:, None]
        memory = [
            (torch.where(where, k_new, k), torch.where(where, v_new, v)) for (k, v), (k_new, v_new) in pairs
        ]
        model, n, own = self.own.model, len(self.donors), self.own.logits[0]
        start = remembered(model, self.own.at(0, torch.zeros(n, dtype=torch.long)), memory)
        logits = answered(model, thought_through(model, start, hooks))
        whole, gone = (
            float((own - other)[:, self.token].double().mean()) for other in (self.donors.logits, logits)
        )
        there = abs(whole) > ALIKE * float(own.abs().max())
        return Left(_alike(own, logits), 1 - gone / whole if there else None)

    @property
    def alike(self) -> float:
        """Share of the other problems that have the same answer as they are."""
        return _alike(self.own.logits[0], self.donors.logits)


def _exchanged(cell: Cell, x: Tensor, other: Tensor, latents: Set[int | None]) -> Tensor:
    """States with some latents, and perhaps the error, of others."""
    acts, theirs = cell.acts(x), cell.acts(other)
    chosen = [latent for latent in latents if latent is not None]
    new = acts.clone()
    new[:, chosen] = theirs[:, chosen]
    after = x + (cell.decode(new, x) - cell.decode(acts, x)).to(x)
    return after + cell.error(other).to(x) - cell.error(x) if None in latents else after


def _alike(own: Tensor, others: Tensor) -> float:
    return float((others.argmax(1) == own.argmax()).double().mean())
