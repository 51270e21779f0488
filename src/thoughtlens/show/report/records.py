"""What the report stage gives back."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Outcome


@dataclass(frozen=True, kw_only=True)
class ReportOutcome(Outcome):
    """The files that were written, by their names within the folder."""

    files: list[str]
    n_warnings: int
