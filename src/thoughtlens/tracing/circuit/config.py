"""What the circuit stage reads, and what an edge must show."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config


class CircuitConfig(Config):
    """Whose circuit is looked for, on which problems."""

    acts: Path
    """The activation store: its problems, and the model behind it."""
    split: str = "test"
    """Split whose problems are thought about."""
    n: int = Field(300, ge=4)
    """Problems, at most."""
    n_steps: int | None = Field(None, ge=1)
    """Of problems that ask for so many steps; unset: for as many as most of them."""
    least: float = Field(0.15, gt=0, lt=1)
    """Share of the answer's change that must flow through an edge to be shown."""
    q: float = Field(0.05, gt=0, lt=1)
    """False-discovery rate over all edges that are tried."""
    pause: str | None = None
    """The control model, where none lies beside the model: a directory, or what `model` may name."""
    batch_size: int = Field(512, ge=2)
    """Problems at a time."""
    seed: int = Field(0, ge=0)
    """Fixes the choice of problems, the operands that are changed, and the random directions."""
