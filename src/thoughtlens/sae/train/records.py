"""What the train stage gives back, and the rows of its table."""

from __future__ import annotations

from dataclasses import dataclass, field

from thoughtlens.core import Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """An SAE on samples of training and held-out vectors; None where it was not measured."""

    fvu_train: float | None = column("FVU training", default=None)
    fvu_validation: float | None = column("FVU held out", default=None)
    l0_train: float | None = column("L0 training", default=None)
    l0_validation: float | None = column("L0 held out", default=None)
    n_dead: int | None = column("dead in training", default=None)


@dataclass(frozen=True, kw_only=True)
class CurvePoint(Measured):
    """What others read of a row of `metrics.parquet`, which also has the terms of the loss."""

    member: str
    rows_seen: int


@dataclass(frozen=True, kw_only=True)
class Trained(Measured):
    """What others read of an SAE that was trained."""

    member: str = column("SAE")
    kind: str
    hook_names: list[str] = column("hooks")
    thoughts: list[int] | None = column(default=None)
    d_in: int
    d_sae: int
    n_vectors: int = column("vectors")
    rows_seen: int = column("seen")
    lr_peak: float = column("peak lr")
    n_train: int | None = None
    n_validation: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainOutcome(Outcome):
    """What others read of the stage's result."""

    seed: int
    split: str
    validation_split: str | None = column(default=None)
    members: list[Trained] = field(default_factory=list)
