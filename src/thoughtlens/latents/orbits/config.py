"""Whose states are followed from thought to thought."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config


class OrbitsConfig(Config):
    """How far a state moves from thought to thought, and where it ends."""

    acts: Path
    """The activation store, of thoughts."""
    split: str = "test"
    """Split whose problems are followed."""
    n: int = Field(500, ge=2)
    """Problems, at most."""
    beyond: int = Field(0, ge=0)
    """Further rounds that the model behind the store thinks after its last one: the state that they end with
    stands for the fixed point. With 0 nothing is run, and each problem's last stored state stands for it."""
    rest: float = Field(0.01, gt=0)
    """A problem is at rest where its last step is at most this share of its last state's norm."""
    drawn: int = Field(12, ge=0)
    """Problems whose orbits are kept for the plot."""
    batch_size: int = Field(64, ge=1)
    """Problems at a time, of the model."""
    seed: int = Field(0, ge=0)
    """Fixes the choice of problems."""
