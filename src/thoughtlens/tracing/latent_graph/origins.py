"""Where edges begin: the latents and the error of one cell, or the words of the question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.models import State
from thoughtlens.tracing.latent_graph.cells import Cell
from thoughtlens.tracing.latent_graph.runs import ALIKE, Memory, Runs, Wake, free, remembered, thought_through

ERROR = None
"""In the place of a latent: what the SAE leaves unexplained."""


@dataclass(frozen=True, eq=False)
class Origin(ABC):
    """Sources whose changes are made at one place."""

    runs: Runs
    sources: Sequence[str]
    """Ids of the nodes."""

    @abstractmethod
    def removals(self, which: Int[Tensor, " n"], rows: Int[Tensor, " n"]) -> Float[Tensor, "n parts width"]:
        """What takes source `which[i]` away from run `rows[i]`; 0 where it is not there."""

    @abstractmethod
    def wake(self, which: Int[Tensor, " n"], rows: Int[Tensor, " n"], delta: Tensor) -> Wake:
        """What such changes leave behind."""

    @abstractmethod
    def end(self, which: Int[Tensor, " n"], rows: Int[Tensor, " n"], delta: Tensor) -> State:
        """The end of runs with such changes, in which all that follows follows."""


@dataclass(frozen=True, eq=False)
class OfCell(Origin):
    """Latents of one cell, and its error."""

    cell: Cell
    latents: Sequence[int | None]

    def removals(self, which: Int[Tensor, " n"], rows: Int[Tensor, " n"]) -> Float[Tensor, "n parts width"]:
        """See `Origin.removals`."""
        x = self.runs.x[self.cell.place]
        found = torch.stack([self.cell.removal(x, latent) for latent in self.latents])
        return found[which, rows][:, None]

    def wake(self, which: Int[Tensor, " n"], rows: Int[Tensor, " n"], delta: Tensor) -> Wake:
        """See `Origin.wake`."""
        return Wake.of_cell(self.runs, self.cell.place, rows, delta[:, 0])

    def end(self, which: Int[Tensor, " n"], rows: Int[Tensor, " n"], delta: Tensor) -> State:
        """See `Origin.end`."""
        return free(self.runs, self.cell.place, rows, delta[:, 0])


@dataclass(frozen=True, eq=False)
class OfWords(Origin):
    """The words of the question, each by its keys and values in all blocks."""

    usual: Float[Tensor, "positions parts width"]
    """What other problems remember at each position, mean."""

    def removals(self, which: Int[Tensor, " n"], rows: Int[Tensor, " n"]) -> Float[Tensor, "n parts width"]:
        """See `Origin.removals`; a twin's other word is not there."""
        own = by_position(self.runs.memory)
        same = (own[:, :, :1] - own[:1, :, :1]).abs().amax((2, 3)) <= ALIKE * own.abs().max()
        return (self.usual[which] - own[rows, which]) * same[rows, which, None, None]

    def wake(self, which: Int[Tensor, " n"], rows: Int[Tensor, " n"], delta: Tensor) -> Wake:
        """See `Origin.wake`."""
        return Wake.of_words(self.runs, rows, self._changed(which, rows, delta))

    def end(self, which: Int[Tensor, " n"], rows: Int[Tensor, " n"], delta: Tensor) -> State:
        """See `Origin.end`."""
        model, memory = self.runs.model, self._changed(which, rows, delta)
        return thought_through(model, remembered(model, self.runs.at(0, rows), memory), [])

    def _changed(self, which: Tensor, rows: Tensor, delta: Tensor) -> Memory:
        at, found = torch.arange(len(rows)), []
        for layer, (k, v) in enumerate(self.runs.memory):
            pair = []
            for j, part in enumerate((k, v)):
                new = part[rows].clone()
                new[at, :, which] += delta[:, 2 * layer + j].reshape(len(rows), *new[0, :, 0].shape).to(new)
                pair.append(new)
            found.append((pair[0], pair[1]))
        return found


def by_position(memory: Memory) -> Float[Tensor, "n positions parts width"]:
    """Keys and values of all blocks, heads after each other."""
    parts = [part.transpose(1, 2).flatten(2) for pair in memory for part in pair]
    return torch.stack(parts, 2).float()
