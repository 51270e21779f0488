"""What the graph stage writes: a graph, and of which problem it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from thoughtlens.tracing.graphs.records import Graph

NAME = 24
"""Longest name of a problem that stays as it is."""


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


def name_of(problem: str) -> str:
    """Name of a problem's graph: `problem-12`, or of a question its first words and digest."""
    words = re.sub(r"[^a-z0-9]+", "-", problem.lower()).strip("-")
    digest = sha256(problem.encode()).hexdigest()[:6]
    return f"problem-{words if len(words) <= NAME else f'{words[:16]}-{digest}'}"
