"""What all graphs ask of their edges: how much flows through each, and how slopes rank effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import scipy.stats
import torch
from torch import Tensor


@runtime_checkable
class Way(Protocol):
    """An edge from a node to a node."""

    @property
    def source(self) -> Any:
        """Where it begins."""
        ...

    @property
    def target(self) -> Any:
        """Where it ends."""
        ...


W = TypeVar("W", bound=Way)


def through(ways: Mapping[W, float], order: Sequence[Any]) -> dict[W, float]:
    """Share of what reaches the answer that goes through each edge, in absolute shares.

    What comes into a node is shared out among the edges into it by their size; `order` has the nodes from the
    answer backwards. As circuit-tracer's influence, of measured effects where there are some.
    """
    into = dict[Any, list[W]]()
    for way in ways:
        into.setdefault(way.target, []).append(way)
    passes, found = {order[0]: 1.0}, dict[W, float]()
    for node in order:
        edges = into.get(node, [])
        total = sum(abs(ways[way]) for way in edges)
        for way in edges if total else ():
            found[way] = passes.get(node, 0.0) * abs(ways[way]) / total
            passes[way.source] = passes.get(way.source, 0.0) + found[way]
    return found


def as_long(change: Tensor, generator: torch.Generator) -> Tensor:
    """A change of the same length along the last dimension, in a random direction."""
    drawn = torch.randn(change.shape, generator=generator).to(change)
    return drawn / drawn.norm(dim=-1, keepdim=True) * change.norm(dim=-1, keepdim=True)


def correlation(foretold: np.ndarray, measured: np.ndarray) -> float | None:
    """Spearman's correlation of attributions and effects; None where there is too little to tell."""
    if len(foretold) < 3 or np.ptp(foretold) == 0 or np.ptp(measured) == 0:
        return None
    return float(np.asarray(scipy.stats.spearmanr(foretold, measured))[0])
