"""What the graph stage reads, and how many edges it tries."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config


class GraphConfig(Config):
    """Whose graph is made, of which problem."""

    acts: Path
    """The activation store: its problems, and the model behind it."""
    sae: Path
    """The SAEs whose latents are the nodes."""
    explain: Path | None = None
    """What the latents are said to stand for."""
    problem: str = Field(min_length=1)
    """A `problem_id` of the store, or a question."""
    member: str | None = None
    """The SAE of that name alone; unset: the pooled one or the first, and the others where it is not."""
    budget: int = Field(300, ge=1)
    """Edges that are tried by an intervention, those through which most would flow by the slope."""
    n_random: int = Field(16, ge=2)
    """Random directions that each source's change is held against."""
    n_twins: int = Field(2, ge=0)
    """Twins for each variable of the problem, over which effects are compared."""
    n_others: int = Field(64, ge=1)
    """Other problems, whose mean stands in the place of a word that is taken away."""
    n_donors: int = Field(8, ge=0)
    """Other problems of equal length whose values are put in the place of nodes that are cut."""
    least: float = Field(0.01, ge=0, lt=1)
    """Share of the answer's change that must flow through an edge to be shown."""
    q: float = Field(0.05, gt=0, lt=1)
    """False-discovery rate over all edges that are tried."""
    batch_size: int = Field(1024, ge=1)
    """Runs at a time."""
    seed: int = Field(0, ge=0)
    """Fixes twins, other problems and random directions."""
