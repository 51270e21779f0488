"""Which run a report is of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from thoughtlens.core import Config
from thoughtlens.show.pages.links import link


class ReportConfig(Config):
    """Which run, and how much of it."""

    run: Path
    """The run directory."""
    title: str | None = None
    """Heading; unset: the run's name."""
    top_latents: int = Field(12, ge=0)
    """Latents shown with their examples."""
    explorer: Annotated[str, AfterValidator(link)] | None = None
    """Address of the explorer's page, as seen from the report, which latents link into; unset: the run's own
    `explorer/`, if it is there when the report is written into the run. http(s), a file, or relative."""
