"""Which store the first study is replayed on, and with which SAE."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config


class ReplayConfig(Config):
    """Which store the first study is replayed on, and with which SAE."""

    acts: Path
    """The activation store, of thoughts."""
    n_per_class: int = Field(200, ge=20)
    """Problems drawn of each class; fewer where a class has fewer."""
    epochs: float = Field(25.0, gt=0)
    """Passes over the vectors for every SAE."""
    expansion: float = Field(4.0, gt=0)
    """Latents per input dimension."""
    l1: float = Field(1e-3, gt=0)
    """Penalty of the first SAE, on the mean squared error over dimensions."""
    k: int = Field(16, ge=1)
    """Latents a vector may use in the SAE of the last line, a TopK."""
    folds: int = Field(5, ge=2)
    """Outer folds of the corrected protocol."""
    delta: float = Field(0.03, ge=0)
    """Difference of accuracy below which two arms count as equivalent."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights, folds and resampling; the draw and split of problems keep the study's 42."""
