"""What the explorer stage gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thoughtlens.core import Outcome


@dataclass(frozen=True, kw_only=True)
class ExplorerOutcome(Outcome):
    """How much is shown, and how large it is."""

    n_latents: int
    n_problems: int
    first_bytes: int
    """Loaded before the first click."""
    total_bytes: int
    headline: Mapping[str, str] = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=dict
    )
