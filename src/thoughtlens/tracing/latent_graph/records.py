"""What the graph stage writes: a graph, and of which problem it is."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.tracing.graphs.records import Graph


@dataclass(frozen=True, kw_only=True)
class GraphOutcome(Graph):
    """The stage's result."""

    problem_id: str | None
    """None: a question that the store does not have."""
    split: str | None
    model_digest: str | None
    members: list[str]
    n_candidates: int
    """Edges that the slope says carry anything."""
    budget: int
    n_random: int
    twins: list[str]
    """Their questions."""
    n_others: int
    n_donors: int
