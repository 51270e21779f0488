"""What the program stage reads, and what a place must show to hold a variable."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config


class ProgramConfig(Config):
    """Whose program is written, from which problems, and on which ones it is graded."""

    acts: Path
    """The activation store: its problems, and the model behind it."""
    split: str = "test"
    """Split whose problems it is graded on; none of their paths is asked before."""
    n: int = Field(300, ge=2)
    """Problems that it is graded on, at most."""
    n_steps: int | None = Field(None, ge=1)
    """Of problems that ask for so many steps; unset: the most that a tenth of them ask for."""
    n_fit: int = Field(400, ge=4)
    """Problems of the split train whose thoughts are looked at."""
    n_twins: int = Field(64, ge=4)
    """Twins for each variable that places are found with."""
    repeats: int = Field(2, ge=1)
    """Interventions for each cell of a table."""
    least: float = Field(0.8, gt=0.5, le=1)
    """Share of twins that must move the answer, or leave it, as a place's variable says."""
    batch_size: int = Field(512, ge=1)
    """Problems at a time."""
    seed: int = Field(0, ge=0)
    """Fixes the choice of problems, twins and donors, and the noise."""
