"""What an explorer shows."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config


class ExplorerConfig(Config):
    """What the explorer shows."""

    run: Path
    """The run's directory."""
    others: tuple[Path, ...] = ()
    """Other runs of the same kind (thoughts or text), whose SAEs are shown beside this run's: other seeds,
    other models. The problem pages are those of `run`."""
    explain: Path | None = None
    """A finished explain of this run's SAEs that lies elsewhere, shown in the place of `run`/explain."""
    single: bool = False
    """One HTML file instead of a folder; for small runs."""
    n_problems: int = Field(default=200, ge=0)
    """Problems (documents) that get a page of their own."""
    latents_per_shard: int = Field(default=64, ge=1)
    """Latents that are loaded together."""
    neighbours: int = Field(default=8, ge=0)
    """Latents of the nearest decoder rows shown with each."""
    seed: int = Field(default=0, ge=0)
    """Seed of the choice of problems."""
