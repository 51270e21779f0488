"""What the import stage writes beside the store."""

from __future__ import annotations

from dataclasses import dataclass, field

from thoughtlens.acts.extract.records import ExtractOutcome
from thoughtlens.core import Record


@dataclass(frozen=True, kw_only=True)
class Example(Record):
    """One row of the files, and what it was taken for."""

    array: str
    row: int
    """Counted over all files, in the array as rows."""
    problem_id: str
    hook_name: str
    thought_given: int | None
    """The thought's number in the files; of texts the position."""
    thought_idx: int | None
    """Its number in the store."""
    split: str
    norm: float


@dataclass(frozen=True, kw_only=True)
class ImportOutcome(ExtractOutcome):
    """The stage's result: as of an extraction, and how the files were read."""

    layout: str
    """How the files were recognised."""
    read_as: dict[str, str]
    """Which column gave what."""
    splits_made: bool
    """Whether the splits were made here, by a hash of the groups."""
    unresolved: list[str]
    """Hooks whose place in the model nobody said."""
    examples: list[Example] = field(default_factory=list)
