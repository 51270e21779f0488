"""Edges of attention that are cut: from a thought, or the answer, to a set of positions before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from thoughtlens.models import State

ATTENTION = "attention"
"""What the site of a cut is called."""


@dataclass(frozen=True)
class Cut:
    """In one layer, one position that no longer looks at others."""

    layer: int
    query: int
    """A thought; one past the last thought: the answer's cue and all that is said after it."""
    keys: tuple[tuple[int, int], ...]
    """First and last position of each range that is cut; only what stands before the query is."""
    heads: tuple[int, ...] | None = None
    """None: all."""
    seed: int | None = None
    """As a control: as many positions, drawn for each problem from among the others that it looks at."""

    def chosen(self, state: State, begin: int) -> Bool[Tensor, "batch keys"]:
        """Which of the positions that stand in a state are cut.

        Args:
            state: Before the query's pass.
            begin: Positions of the batch before the begin-of-thought position.
        """
        at = torch.arange(state.mask.shape[1]) - begin
        wanted = torch.zeros(len(at), dtype=torch.bool)
        for low, high in self.keys:
            wanted |= (at >= low) & (at <= high)
        there = state.mask.cpu()
        if self.seed is None:
            return there & wanted
        drawn = torch.zeros_like(there)
        for i, row in enumerate(state.rows.tolist()):
            others = torch.nonzero(there[i] & ~wanted)[:, 0]
            n = int((there[i] & wanted).sum())
            order = np.random.default_rng((self.seed, 79, self.query, row)).permutation(len(others))
            drawn[i, others[order[:n]]] = True
        return drawn

    def mask(self, chosen: Bool[Tensor, "batch keys"], n_heads: int) -> Bool[Tensor, "batch heads keys"]:
        """The same by head."""
        heads = torch.ones(n_heads, dtype=torch.bool)
        if self.heads is not None:
            heads = torch.isin(torch.arange(n_heads), torch.tensor(self.heads))
        return chosen[:, None] & heads[:, None]
