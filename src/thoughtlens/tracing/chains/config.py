"""What the trace stage reads, and what stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from thoughtlens.core import Config

Reader = Literal["logit", "tuned", "probe", "latents"]
Control = Literal["pause", "shuffled", "renamed"]


class TraceConfig(Config):
    """Whose chains are traced, and with which controls."""

    acts: Path
    """The activation store: its problems, and the model behind it."""
    sae: Path | None = None
    """SAE(s), of which the one that pages show reads thoughts too; unset: none. In a run, its own."""
    lens: Path | None = None
    """A finished lens stage, whose translators read thoughts too; unset: none. In a run, its own."""
    lenses: tuple[Reader, ...] = Field(("logit", "tuned", "probe", "latents"), min_length=1)
    """What may read a thought. `logit`, the model's own output side, always may; each other one takes its
    place at a thought where more steps hold with it, on problems of another split."""
    n_fit: int = Field(800, ge=0)
    """Problems of other splits that the probe and the latents are fitted on, at most; a quarter as many
    choose what reads."""
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
