"""What the program stage writes: its result, and the rows of its tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

from thoughtlens.core import Number, Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class HeldRow(Record):
    """What twins of one variable say of a place, in `places.parquet`."""

    variable: str = column(arrow="dictionary")
    """What differs in the twins: `start`, or the operation of a step, `op1`."""
    thought_idx: int = column(arrow="int32")
    route: str = column(arrow="dictionary")
    """The way by which a thought reaches later ones: its state, or its keys and values, or both."""
    follows: float
    """Share of twins whose answer comes when what they left is put in here."""
    stays: float
    """Share in which the answer stays what it was."""
    n: int = column(arrow="int32")
    """Twins whose own answer is another one."""


@dataclass(frozen=True, kw_only=True)
class Variable(Record):
    """A variable of the program, and where the model has it."""

    name: str
    thought_idx: int | None
    """None: it is in the question, or it is the answer."""
    route: str | None
    score: float | None
    """The least share of twins that move the answer, or leave it, as this variable says."""
    also: list[str]
    """Further places that hold it."""
    n_values: int
    named_by: str
    """What its values are called after: `question`, `answer`, `early exit`, `logit lens`; `letters` where
    nothing says them."""

    def nowhere(self) -> Variable:
        """Without the places, which did not stand the test."""
        return replace(self, thought_idx=None, route=None, score=None, also=[])


@dataclass(frozen=True, kw_only=True)
class StepTable(Record):
    """A step of the program."""

    table: str
    """Name of its table in `program.py`; steps whose tables agree share one."""
    of: list[str]
    """The variables that it is looked up by."""
    gives: str
    n_cells: int
    """Cells that were seen, of this step alone."""
    agreement: float | None
    """Share of the interventions on a cell that give what the cell says."""
    n: int
    """Interventions and problems that they were filled from."""


@dataclass(frozen=True, kw_only=True)
class Leave(Record):
    """What is answered after fewer thoughts, as a table of variables."""

    n_thoughts: int
    of: list[str]
    share: float
    """Of training problems that were left out of the table: how many answers it gives."""


@dataclass(frozen=True, kw_only=True)
class CellRow(Record):
    """A cell of a step's table, in `cells.parquet`."""

    gives: str = column(arrow="dictionary")
    before: str
    """What it is looked up by, with commas."""
    after: str | None
    """None: its interventions did not agree."""
    votes: int = column(arrow="int32")
    n: int = column(arrow="int32")


@dataclass(frozen=True, kw_only=True)
class GradedRow(Record):
    """A held-out problem, untouched or intervened on, in `graded.parquet`."""

    problem_id: str
    kind: str = column(arrow="dictionary")
    """`untouched`, `swap value1`, `swap op2`, `exit 3`, `noise 2`."""
    donor: str | None
    """The problem whose variable was swapped in."""
    untouched: str
    model: str
    program: str | None
    """None: unknown."""
    agrees: bool
    is_error: bool
    """The untouched answer is right, where that is known, and this is another one."""


@dataclass(frozen=True, kw_only=True)
class Grade(Record):
    """One kind of intervention."""

    kind: str
    agrees: Number
    """Share in which program and model answer the same."""
    n_errors: int
    predicted: Number | None
    """Of the errors it made, the share whose wrong answer the program gives; None: it made none."""


@dataclass(frozen=True, kw_only=True)
class Rival(Record):
    """A simpler program."""

    name: str
    about: str
    untouched: float
    interchange: float
    errors: float | None


@dataclass(frozen=True, kw_only=True)
class ProgramOutcome(Outcome):
    """The stage's result."""

    split: str
    model: str
    model_digest: str | None
    n: int
    n_fit: int
    n_steps: int
    program: str | None
    """The file; None: no program."""
    reason: str | None = column(default=None, null=True)
    """Why there is none."""
    variables: list[Variable] = column()
    steps: list[StepTable] = column()
    leaves: list[Leave] = column()
    grades: list[Grade] = column()
    rivals: list[Rival] = column()
