"""What the orbits stage writes."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Number, Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class RoundRow(Record):
    """How far the states of a hook move up to a thought, and have still to go; medians over problems."""

    hook_name: str = column("hook")
    thought_idx: int = column("thought")
    n: int = column("n problems")
    norm: float
    step_norm: float | None = column("step")
    """Of s_t - s_(t-1); unset at the first thought."""
    step_low: float | None = None
    """Its quartiles over problems."""
    step_high: float | None = None
    step_ratio: float | None = column("step / step before", default=None)
    turn: float | None = column("cosine with the step before", default=None)
    distance: float = column("distance to the end")
    """Of s_t to the state that stands for the fixed point."""
    spread: float | None = column("distance to another problem's state", default=None)
    """At the same thought."""


@dataclass(frozen=True, kw_only=True)
class OrbitRow(Record):
    """A state on the two leading principal components of its hook."""

    problem_id: str
    hook_name: str
    thought_idx: int
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class OrbitsOutcome(Outcome):
    """The stage's result."""

    split: str
    n: int
    hook_names: list[str]
    end: str
    """What stands for the fixed point."""
    at_rest: dict[str, Number]
    """By hook, the share of problems whose last step is small."""
    variance_shown: dict[str, float]
    """By hook, the share of variance that two components hold."""
    rounds: list[RoundRow]
