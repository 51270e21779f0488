"""Settings of the convert stage."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config


class ConvertConfig(Config):
    """What to convert to what."""

    source: Path
    """The SAE: a folder or a file of any format; a folder of such folders converts them all."""
    to: str
    """Format to write."""
    source_format: str | None = None
    """Format of the source; unset: recognised from its files."""
    hook_name: str | None = None
    """Hook of the SAE, such as layers.8:out, where the source does not say it."""
    release: str | None = None
    """Release of the catalogue that it is of, which says of its training what its own files do not."""
    seed: int = Field(default=0, ge=0)
    """Of the rows that both are compared on."""
