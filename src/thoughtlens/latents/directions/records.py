"""What directions are like on the rows of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thoughtlens.core import Outcome, Record


@dataclass(frozen=True, kw_only=True)
class DirectionRow(Record):
    """One direction: its read-out, and where the rows lie along it."""

    name: str
    high: int
    """Number of its high end among the latents of other tables; its low end is the next."""
    offset: float
    """Projection on the unit vector that counts as 0."""
    offset_is: str
    threshold_high: float
    """It is active at its high end where projection - offset lies above this,"""
    threshold_low: float
    """and at its low end where offset - projection does."""
    mean: float
    """Of projection - offset over the rows."""
    sd: float
    min: float
    max: float
    share_high: float
    """Of the rows on which it is active at this end."""
    share_low: float
    edges: list[float]
    counts: list[int]
    """Rows between the edges."""


@dataclass(frozen=True, kw_only=True)
class DirectionsOutcome(Outcome):
    """The stage's result."""

    source: str
    hook_name: str
    thoughts: list[int] | None
    d_in: int
    split: str
    n: int
    """Rows that the numbers are of."""
    directions: list[DirectionRow]
    headline: Mapping[str, int] = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=dict
    )
