"""What the monitor writes: its result, and the rows of its table."""

from __future__ import annotations

from dataclasses import dataclass, field

from thoughtlens.core import Number, Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class WatchedRow(Record):
    """One problem in one run of the model, in `problems.parquet`."""

    problem_id: str
    split: str = column(arrow="dictionary")
    error: str = column(arrow="dictionary")
    """How the answer was broken: `swap`, `noise`, `exit`; `none`: the model as it is."""
    error_idx: int | None = column("at thought", arrow="int32")
    answer: str
    is_right: bool | None = column("right")
    contradicts: float | None
    beyond: float | None
    margin: float
    entropy: float


@dataclass(frozen=True, kw_only=True)
class Alarm(Record):
    """A detector at one threshold."""

    rate: float
    """Share of clean problems that may be flagged."""
    threshold: float | None = column(default=None, null=True)
    """Scores above it are flagged; unset: too few clean problems to set one."""
    recall: Number | None = column(default=None, null=True)
    false_alarms: Number | None = column(default=None, null=True)
    """Share of the scored split's clean problems that it does flag."""


@dataclass(frozen=True, kw_only=True)
class Detector(Record):
    """How well one score tells what there is to notice from what is clean."""

    name: str
    about: str
    role: str
    """`score`; `rival`; `shown`: a probe that is shown the labels; `control`: must fail."""
    auroc: Number | None = column(default=None, null=True)
    alarms: list[Alarm] = field(default_factory=list)
    wordings: list[str] = field(default_factory=list)
    """Columns of new wordings, for which its thresholds are set."""


@dataclass(frozen=True, kw_only=True)
class Against(Record):
    """A score's AUROC less a rival's, on the same problems."""

    score: str
    rival: str
    difference: Number


@dataclass(frozen=True, kw_only=True)
class ErrorRow(Record):
    """Answers broken in one way at one thought."""

    error: str
    error_idx: int = column("at thought")
    n_tried: int = column("tried")
    n: int = column("broken")
    contradicts: Number | None = column("AUROC of the contradiction", default=None, null=True)
    margin: Number | None = column("AUROC of the margin", default=None, null=True)


@dataclass(frozen=True, kw_only=True)
class Truth(Record):
    """Something to notice, and who notices it."""

    name: str
    about: str
    score: str
    """The score that is made for it."""
    n_positive: int
    n_clean: int
    n_clean_thresholds: int
    """Clean problems that the thresholds come from."""
    detectors: list[Detector]
    against: list[Against]
    errors: list[ErrorRow]
    says: str
    """The outcome in a sentence."""

    def detector(self, name: str) -> Detector | None:
        """The one of this name."""
        return next((one for one in self.detectors if one.name == name), None)


@dataclass(frozen=True, kw_only=True)
class MonitorOutcome(Outcome):
    """The stage's result."""

    split: str
    model: str
    model_digest: str | None
    n: int
    rule: str | None
    """What a step is; unset: the source does not say it, and no chain is held against the answer."""
    accuracy: Number | None
    truths: list[Truth]
