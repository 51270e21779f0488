"""What the distill stage gives back."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Number, Outcome, Record


@dataclass(frozen=True, kw_only=True)
class TrainedModel(Record):
    """A model or control, and how often it is right on held-out problems."""

    variant: str
    seed: int
    attempt: int
    """New starts that it took."""
    steps: int
    switches: dict[str, int]
    """The step at which each phase began."""
    accuracy: dict[str, Number]
    """answer_1 .. answer_3 and teacher_1 .. teacher_3, by number of steps of the problem."""


@dataclass(frozen=True, kw_only=True)
class DistillOutcome(Outcome):
    """The models of all seeds."""

    models: list[TrainedModel]
