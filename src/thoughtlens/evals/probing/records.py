"""Rows that several tables of the evaluations share."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Record, column


@dataclass(frozen=True, kw_only=True)
class ClassScores(Record):
    """How well classes are predicted; definitions in `scores.DEFINITIONS`."""

    n: int
    n_groups: int
    accuracy: float
    low: float
    """95 % interval of the accuracy."""
    high: float
    interval: str
    """How the interval was made."""
    balanced_accuracy: float
    macro_f1: float
    macro_f1_low: float
    macro_f1_high: float
    log_loss: float


@dataclass(frozen=True, kw_only=True)
class ValueScores(Record):
    """How well a number is predicted; definitions in `scores.DEFINITIONS`."""

    n: int
    n_groups: int
    r2: float
    low: float
    """95 % interval of R squared."""
    high: float
    interval: str
    mean_absolute_error: float
    rmse: float
    spearman: float | None


@dataclass(frozen=True, kw_only=True)
class ClassReport(Record):
    """Precision, recall and F1 of one class, with 95 % intervals; None where they have no value."""

    name: str = column(key="class")
    n: int = column("n of the class")
    n_predicted: int
    precision: float | None
    precision_low: float | None
    precision_high: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    f1: float = column("F1")


@dataclass(frozen=True, kw_only=True)
class Paired(Record):
    """Two scores on the same units: their difference, and what it allows to say of the first."""

    difference: float
    low: float
    high: float
    p: float
    test: str
    n_only_first: int
    """Units (or groups) on which the first is ahead."""
    n_only_second: int
    n: int
    n_groups: int
    delta: float
    minimal_detectable_difference: float | None
    power: float
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Compared(Record):
    """Which representation is compared with which."""

    arm: str
    pooling: str
    against: str
    primary: bool
    """Named before looking."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Paired, Compared):
    """One representation against another at the same pooling."""

    p_resampled: float | None = None
    p_holm: float | None = None
    """None of the primary comparison, which is not one of many."""
