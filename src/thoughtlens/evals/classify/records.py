"""What the classify stage gives back, and the rows of its tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from thoughtlens.core import Outcome, Record, column
from thoughtlens.evals.probing.records import ClassReport, ClassScores, Comparison, Paired, ValueScores


@dataclass(frozen=True, kw_only=True)
class Scored(Record):
    """Which representation was scored."""

    arm: str
    pooling: str
    """`cell`: one (hook, thought) alone; `none`: a representation without vectors."""
    hook_name: str | None
    thought_idx: int | None
    split: str


@dataclass(frozen=True, kw_only=True)
class Fitted(Record):
    """How it was fitted."""

    n_features: int
    c_median: float | None
    """Median over the outer folds of the C chosen; None: nothing was fitted."""
    n_unconverged: int


@dataclass(frozen=True, kw_only=True)
class ClassRow(Fitted, ClassScores, Scored):
    """A row of `table.parquet` where classes are predicted."""


@dataclass(frozen=True, kw_only=True)
class ValueRow(Fitted, ValueScores, Scored):
    """A row of `table.parquet` where a number is predicted."""


@dataclass(frozen=True, kw_only=True)
class AtK(Record):
    """From how many features."""

    arm: str
    pooling: str
    k: int
    split: str


@dataclass(frozen=True, kw_only=True)
class ClassPoint(ClassScores, AtK):
    """A point of a curve where classes are predicted."""


@dataclass(frozen=True, kw_only=True)
class ValuePoint(ValueScores, AtK):
    """A point of a curve where a number is predicted."""


@dataclass(frozen=True, kw_only=True)
class ChosenRow(Record):
    """A row of `chosen.parquet`: a feature that says most, and where it comes from."""

    arm: str
    pooling: str
    rank: int
    member: str
    hook_names: list[str]
    thoughts: list[int]
    index: int
    """Of the latent, component or coordinate."""
    n_folds: int


@dataclass(frozen=True, kw_only=True)
class ClassCount(Record):
    """A class and its units."""

    name: str = column(key="class")
    n: int


@dataclass(frozen=True, kw_only=True)
class Seen(Record):
    """What is classified, and what the SAE saw of it."""

    split: str
    n_seen_by_sae: int
    standing: str
    """inductive, transductive, cross-fitted or unknown."""
    n: int
    n_unlabelled: int = 0
    """Without a label, left out."""
    n_copies: int = 0
    """Put into the group of another unit, of whose text or vectors theirs are copies."""
    n_contradicted: int = 0
    """With the text of another unit, up to case, space and punctuation, and not its label."""
    out_of_step: str | None = None
    """Why its groups look shifted against its texts."""


@dataclass(frozen=True, kw_only=True)
class Protocol(Record):
    """What all representations have in common."""

    same_for_every_arm: list[str] = field(default_factory=list)
    same_for_every_arm_of_vectors: list[str] = field(default_factory=list)
    arms_of_vectors: list[str] = field(default_factory=list)
    arms_without_vectors: list[str] = field(default_factory=list)
    folds: int
    inner_folds: int
    folds_digest: str
    group: str
    learner: str
    c_grid: list[float]
    scaler: str
    chosen_by: str
    poolings: list[str]
    ks: list[int] = field(default_factory=list)
    cross_fit: bool = False
    pca_k: dict[str, int]
    pca_live_k: dict[str, int] = field(default_factory=dict)
    l0: dict[str, float]
    delta: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class CellRow(Record):
    """One (hook, thought) cell under the screening classifier."""

    hook_name: str
    thought_idx: int | None
    screening_score: float
    p_any: float
    p_best: float


@dataclass(frozen=True, kw_only=True)
class Place(Record):
    """A (hook, thought) cell."""

    hook_name: str
    thought_idx: int | None


@dataclass(frozen=True, kw_only=True)
class Pooled(Record):
    """Which pooling."""

    pooling: str


@dataclass(frozen=True, kw_only=True)
class PoolingLoss(Paired, Pooled):
    """A pooling against the best cell, and why one loses."""

    strongest_in_cell: float
    strongest_in_pooling: float | None = None
    """None of a pooling whose weights are learned."""
    says: str | None
    p_holm: float | None = None
    """Over the poolings of the arm."""


@dataclass(frozen=True, kw_only=True)
class CellTests(Record):
    """Which cell knows the label, by tests that know how many were tried."""

    by_cell: list[CellRow] = column(key="cells")
    best: Place
    null_max_95: float
    n_permutations: int
    n: int
    says: str
    poolings: list[PoolingLoss]


@dataclass(frozen=True, kw_only=True)
class TransferRow(Paired, Pooled):
    """A probe fitted under one condition and scored under another, against the ceiling on the same units."""

    arm: str
    score: float = column("fitted elsewhere")
    score_low: float
    score_high: float
    within_test: float = column("fitted there")
    within_test_low: float
    within_test_high: float
    within_train: float = column("fitted and scored elsewhere")
    within_train_low: float
    within_train_high: float
    p_holm: float
    carries_over: str = column("carries over")


@dataclass(frozen=True, kw_only=True)
class Conditions(Record):
    """What is fitted on and what is scored."""

    train_where: list[str]
    test_where: list[str]
    n_train: int
    n_train_groups: int
    n_test: int
    n_test_groups: int
    n_both: int
    """Units of both."""
    rows: list[TransferRow]


@dataclass(frozen=True, kw_only=True)
class ClassifyOutcome(Outcome):
    """What the classify stage measured."""

    target: str | None
    task: str = "classification"
    metric: str = "accuracy"
    kind: str
    target_mean: float | None = None
    target_std: float | None = None
    classes: list[ClassCount]
    """Empty where a number is predicted."""
    per_class: dict[str, list[ClassReport]] | None = None
    confusion: dict[str, list[list[int]]] | None = None
    n: int
    n_groups: int
    split: str
    transductive: Seen
    protocol: Protocol
    arms: dict[str, str]
    """What each representation is."""
    arms_left_out: list[str] = field(default_factory=list)
    table: list[ClassRow | ValueRow]
    """`table.parquet` without single cells."""
    comparisons: list[Comparison]
    primary_pooling: str
    curves: list[ClassPoint | ValuePoint] = field(default_factory=list)
    chosen: list[ChosenRow] = field(default_factory=list)
    fewest: dict[str, int] = field(default_factory=dict)
    """By representation and pooling, the fewest features that reach 95 % of the curve's highest score."""
    cell_tests: dict[str, CellTests] | None = None
    transfer: Conditions | None = None
    """Where train_where and test_where are given."""
