"""The smallest stage's settings."""

from __future__ import annotations

from pathlib import Path

from thoughtlens.core import Config


class Count(Config):
    n: int = 3
    """How many files."""
    source: Path | None = None
    """Input."""
