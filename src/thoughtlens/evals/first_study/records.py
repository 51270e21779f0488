"""What the replay stage gives back."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Outcome, Record, column
from thoughtlens.evals.probing.records import ClassReport


@dataclass(frozen=True, kw_only=True)
class Line(Record):
    """Both accuracies and their difference under one protocol, and what its change moved."""

    change: str
    what: str
    raw: float
    raw_low: float
    raw_high: float
    sae: float = column("SAE")
    sae_low: float
    sae_high: float
    n: int
    n_groups: int
    difference: float
    n_tested_by_both: int
    moved: float | None
    low: float | None
    """Paired 95 % interval of the difference; None where the two were tested on different problems."""
    high: float | None
    p: float | None
    test: str | None
    minimal_detectable_difference: float | None = column(default=None, null=True)
    verdict: str
    p_holm: float | None = column(default=None, null=True)
    """p adjusted over the lines that are paired."""


@dataclass(frozen=True, kw_only=True)
class SAEMeasures(Record):
    """What was measured of an SAE, and on which rows."""

    rows: int
    measured_on: str
    mse: float
    explained_variance_of_residuals: float | None = None
    explained_variance: float | None = None
    l0: float
    dead: int
    d_sae: int


@dataclass(frozen=True, kw_only=True)
class ReplayOutcome(Outcome):
    """What the replay stage measured; of `sae` and `per_class` as it was, and corrected."""

    n_problems: int
    n_groups: int
    hook_names: list[str]
    labels_differ: int
    unlabelled: int
    ladder: list[Line]
    sae: dict[str, SAEMeasures]
    per_class: dict[str, list[ClassReport]]
