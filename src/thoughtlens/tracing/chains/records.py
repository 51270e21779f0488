"""What the trace stage writes: its result, and the rows of its tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from thoughtlens.core import Number, Outcome, Record, column

READERS = "readers.safetensors"
"""What reads thoughts in the place of the plain lens, where something does."""


@dataclass(frozen=True, kw_only=True)
class StepRow(Record):
    """A step that a problem's thoughts computed, and what its tests showed, in `steps.parquet`."""

    arm: str = column("traced", arrow="dictionary")
    """`thoughts`, or the control."""
    problem_id: str
    step: int = column(arrow="int32")
    """From 1 on."""
    operation: str | None
    """What is read as the operation; unset: nothing is read."""
    read_idx: int | None = column("read at thought", arrow="int32")
    before: str | None
    """The value that it is done to."""
    follows: str | None = column("what follows")
    value: str | None = column("what is read")
    thought_idx: int = column("thought", arrow="int32")
    """Where the value is read, and what is patched."""
    read_by: str | None = column(default=None, arrow="dictionary")
    """What reads the value: logit lens, tuned lens, latents or linear probe."""
    probability: float | None
    """Of the value's word at that thought; unset: it is read in the answer alone."""
    null: float | None
    """The same word's probability at this thought of the other problems, mean."""
    word: str | None = None
    """The word that the value is read from: of a number of several tokens the first; unset: the answer's."""
    label: str = column(arrow="dictionary")
    route: str | None = column(arrow="dictionary")
    reading_follows: bool | None
    answer_follows: bool | None
    next_follows: bool | None
    patched: bool | None
    patched_at_random: bool | None
    right: bool | None
    """Whether operation and value are those of the labels; unset: there are none."""


@dataclass(frozen=True, kw_only=True)
class ChainRow(Record):
    """What the thoughts of one problem computed, in `problems.parquet`."""

    arm: str = column("traced", arrow="dictionary")
    problem_id: str
    chain: str
    """The steps in a line: `11 *5 → 9, 9 +10 → 19`."""
    answer: str
    is_right: bool | None = column("right")
    n_steps: int = column("steps", arrow="int32")
    n_verified: int = column("verified", arrow="int32")
    found: bool | None = None
    """Whether every step of the labels was verified; unset: there are none."""
    breaks_at: int | None = column("breaks at step", arrow="int32")
    """The step from which on the answer does not follow; unset: it follows."""
    departs_at: int | None = column("departs at step", default=None, arrow="int32")
    """The same, or the step whose operation the question does not ask for there; unset where it is not known
    what is asked for, too."""
    first_match: int | None = column("answer first read at thought", arrow="int32")
    stable_match: int | None = column("answer read from thought on", arrow="int32")


@dataclass(frozen=True, kw_only=True)
class ThoughtRow(Record):
    """One thought over all problems."""

    thought_idx: int = column("thought")
    entropy: float | None
    """Of what is read, nats, mean."""
    probability: float | None
    null: float | None
    is_operation: float
    """Share of problems in which an operation of the question is read."""
    is_value: float
    accuracy: Number | None
    """Right answers when the model leaves after this thought."""


@dataclass(frozen=True, kw_only=True)
class LensRow(Record):
    """What could have read a thought, and how it did on problems of another split."""

    thought_idx: int = column("thought")
    lens: str
    hook_name: str
    column: str | None
    """Which label it is fitted to; unset: to none."""
    makes_sense: float
    """Share of the problems in which its word opens or closes a step that holds."""
    null: float
    """The same with the word of another problem."""
    n: int
    is_chosen: bool


@dataclass(frozen=True, kw_only=True)
class PlaceRow(Record):
    """All tested steps of one number at one thought."""

    step: int
    thought_idx: int = column("thought")
    route: str
    n: int
    patched: Number
    """Share in which the twin's thought brings the twin's answer."""
    patched_at_random: Number
    """The same with as large a change in a random direction."""
    reading_follows: Number | None


@dataclass(frozen=True, kw_only=True)
class Arm(Record):
    """One trace: of the model, or of a control."""

    name: str
    about: str
    n: int
    n_steps: int
    """Steps that the readings say."""
    labels: dict[str, int]
    """Steps by their label."""
    verified: Number
    """Verified steps / steps of the problems' labels; without labels, / steps that are read."""
    precision: Number | None
    recall: Number | None
    accuracy: Number | None
    found: Number | None = None
    """Share of problems of whose labels every step was verified."""
    found_right: Number | None = None
    """The same of those that were answered right."""
    matches: Number
    """Share of problems whose answer is read at some thought."""
    stable: Number | None = None
    """Share of problems from some thought of which on all are read as its answer."""
    places: list[PlaceRow]


@dataclass(frozen=True, kw_only=True)
class TraceOutcome(Outcome):
    """The stage's result."""

    split: str
    model: str
    model_digest: str | None
    n: int
    rule: str | None
    """What a step is; unset: the source does not say it, and readings are not joined."""
    arms: list[Arm]
    thoughts: list[ThoughtRow]
    lenses: list[LensRow] = field(default_factory=list)
    """Of the model itself; none where no other split could choose."""
