"""What the neuronpedia stage gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thoughtlens.core import Outcome
from thoughtlens.show.neuronpedia.formats import Names


@dataclass(frozen=True, kw_only=True)
class NeuronpediaOutcome(Outcome, Names):
    """What was written, under which names, and what was left out for want of a stage."""

    member: str
    n: int
    n_skipped: int
    n_batches: int
    split: str
    left_out: list[str]
    headline: Mapping[str, int] = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=dict
    )
