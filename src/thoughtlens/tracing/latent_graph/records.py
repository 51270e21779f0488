"""What the graph stage writes: a graph, and of which problem it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thoughtlens.tracing.graphs.records import Graph

FOLDER = "graphs"
"""The folder of a run's graphs of single problems."""


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


def graphs_in(run: Path) -> list[Path]:
    """The finished graphs of a run."""
    root = run / FOLDER
    found = sorted(root.iterdir()) if root.is_dir() else []
    return [one for one in found if one.suffix != ".tmp" and (one / "result.json").is_file()]
