"""Whose attention is read, and of how many problems it is kept."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config


class AttentionConfig(Config):
    """What the attention stage reads, and keeps."""

    acts: Path
    """The activation store: its problems, and the model behind it."""
    split: str = "test"
    """Split of the problems."""
    n: int = Field(1000, ge=2)
    """Problems over which the means are taken, at most."""
    n_kept: int = Field(200, ge=0)
    """Problems of which every head's weights are stored, at most."""
    batch_size: int = Field(64, ge=1)
    """Problems at a time."""
    seed: int = Field(0, ge=0)
    """Fixes the choice of problems, and the intervals."""
