"""What a run leaves as `result.json`."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Json, Record


@dataclass(frozen=True, kw_only=True)
class StageDone(Record):
    """A finished stage of a run."""

    path: str
    digest: str
    seconds: float
    headline: Json | None = None
    """As its own result has it; unset where that is empty."""


@dataclass(frozen=True, kw_only=True)
class RunDone(Record):
    """A finished run; the file also says with what it was made."""

    run: str
    name: str
    seed: int
    stages: dict[str, StageDone]
    warnings: list[str]
    seconds: float
