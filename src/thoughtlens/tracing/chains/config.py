"""What the trace stage reads, and what stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from thoughtlens.core import Config

Control = Literal["pause", "shuffled", "renamed"]


class TraceConfig(Config):
    """Whose chains are traced, and with which controls."""

    acts: Path
    """The activation store: its problems, and the model behind it."""
    split: str = "test"
    """Split whose problems are traced."""
    n: int = Field(1000, ge=2)
    """Problems, at most."""
    controls: tuple[Control, ...] = ("pause", "shuffled", "renamed")
    """The same trace without what would make it true. `pause`: of the model trained with pause tokens, where
    one lies beside the model. `shuffled`: with the readings of another problem. `renamed`: with a lens whose
    words have changed places."""
    n_control: int = Field(250, ge=2)
    """Problems of each control, at most."""
    pause: str | None = None
    """The control model, where none lies beside the model: a directory, or what `model` may name."""
    batch_size: int = Field(256, ge=1)
    """Problems at a time."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer."""
    seed: int = Field(0, ge=0)
    """Fixes the choice of problems, the operands that are changed, and the random directions."""
