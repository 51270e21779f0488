"""Which variables are looked for in which SAE."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config


class RecoveryConfig(Config):
    """Which variables are looked for in which SAE."""

    acts: Path
    """The activation store."""
    sae: Path
    """The SAE directory."""
    member: str | None = None
    """Which SAE; unset: the pooled one, or the first."""
    columns: tuple[str, ...] | None = Field(None, min_length=1)
    """Label columns that are looked for; unset: all with 2 to `max_values` values, and of texts `token`."""
    by: tuple[str, ...] | None = None
    """Label columns; everything is said again for the problems of each of their values. Unset: `n_steps`,
    where the problems have it, since a value on the way and an answer are different things."""
    found_at: float = Field(0.9, gt=0, le=1)
    """F1 from which a value counts as found."""
    max_values: int = Field(100, ge=2, le=1000)
    """Most values of a column that are told apart; numbers with more are put into ten bins, and the latent
    that follows them best is searched too."""
    min_count: int = Field(5, ge=2)
    """Problems that a value needs in the validation and in the test split."""
    per_value: int = Field(100, ge=0)
    """Test problems that each value should have: where the store's problems were generated and its model can
    be opened, further ones are made until it has; 0: none are made."""
    most_made: int = Field(25_000, ge=1)
    """Most test problems that are made."""
    max_rows: int = Field(20_000, ge=100)
    """Most rows of a split that are read per place, drawn at random."""
    n_permutations: int = Field(200, ge=20, le=100_000)
    """Deals of numbers to other groups of problems behind the p of such a search."""
    n_resamples: int = Field(500, ge=100, le=100_000)
    """Bootstrap resamples of problems behind each interval."""
    seed: int = Field(0, ge=0)
    """Seed of draws, baselines and resampling."""
