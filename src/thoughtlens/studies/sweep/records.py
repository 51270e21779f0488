"""What a sweep and a grid give back, and the rows of their tables.

Each table's file has a column for every axis of the grid besides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from thoughtlens.core import Number, Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class Held(Record):
    """One trained setting on the held-out rows of a split: means over its SAEs."""

    fvu: float | None
    fvu_within: float | None
    explained_variance: float | None
    l0: float
    dead_share: float
    fidelity: float | None = None
    description: float | None = None
    """Bits a row: the sum of the three that follow."""
    bits_which: float | None = None
    bits_values: float | None = None
    bits_residual: float | None = None
    bits_without: float | None = None
    """Bits a row without any dictionary."""
    recovered: float | None = None
    """Share of the values of labels that are found, mean over label columns."""
    n: int
    n_problems: int
    n_fidelity: int | None = None
    d_in: int
    d_sae: int


@dataclass(frozen=True, kw_only=True)
class RunRow(Record):
    """The first columns of a sweep's `table.parquet`; the numbers of each split follow."""

    setting: int
    label: str
    seed: int | None
    status: str
    """trained, failed, or refused before anything was trained."""
    reason: str | None
    path: str | None


@dataclass(frozen=True, kw_only=True)
class Run(RunRow):
    """A setting trained with one seed, or why it was not."""

    values: dict[str, str]
    """Value of each axis, as written."""
    warnings: list[str] = field(default_factory=list)
    found: dict[str, float] = field(default_factory=dict)
    """By label column: share of its values that are found."""
    validation: Held | None = None
    test: Held | None = None


@dataclass(frozen=True, kw_only=True)
class Spread(Record):
    """Mean and standard deviation over seeds; `low` and `high` are one of it away, None with one seed."""

    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class OverSeeds(Record):
    """A setting on the held-out rows of a split; None: not measured with every seed."""

    n: int
    n_problems: int
    n_fidelity: int | None = None
    d_in: int
    d_sae: int
    fvu: Spread | None
    fvu_within: Spread | None
    explained_variance: Spread | None
    l0: Spread | None
    dead_share: Spread | None
    fidelity: Spread | None
    description: Spread | None = None
    bits_which: Spread | None = None
    bits_values: Spread | None = None
    bits_residual: Spread | None = None
    bits_without: Spread | None = None
    recovered: Spread | None = None


@dataclass(frozen=True, kw_only=True)
class Stability(Record):
    """How much of a setting's dictionary each seed finds again; mean over ordered pairs of seeds."""

    found_again: float
    """Share of the live latents."""
    found_again_by_firings: float
    """Share of the firings that belong to such latents."""
    n_pairs: int


@dataclass(frozen=True, kw_only=True)
class SettingRow(Record):
    """A setting of a sweep with its numbers on both splits, unless no seed could be trained."""

    idx: int
    label: str
    values: dict[str, str]
    n_seeds: int
    reasons: list[str]
    """Why seeds were not trained."""
    validation: OverSeeds | None = None
    test: OverSeeds | None = None
    stability: Stability | None = None
    found: dict[str, float] = field(default_factory=dict)
    """By label column, mean over seeds."""


@dataclass(frozen=True, kw_only=True)
class Recommendation(Record):
    """The chosen setting and why; None where no setting keeps the budget."""

    setting: str | None
    idx: int | None
    path: str | None
    rule: str
    reason: str
    front: list[int]
    within_seed_noise: list[int]
    seed_noise_sd_ln_fvu: float | None
    seed_noise_df: int
    seed_noise_sd_ln: float | None = None
    """Of what the settings were compared by."""
    by: str = "fvu"
    """What the settings were compared by."""
    values: dict[str, float] = field(default_factory=dict)
    """By setting: its mean over seeds on validation rows."""
    validation: OverSeeds | None = None
    test: OverSeeds | None = None


@dataclass(frozen=True, kw_only=True)
class OverSeedsNumber(Number):
    """A number whose `low` and `high` are one standard deviation over seeds away, None with one seed."""

    low: float | None = column(default=None, null=True)
    high: float | None = column(default=None, null=True)


@dataclass(frozen=True, kw_only=True)
class SweepOutcome(Outcome):
    """What a sweep found."""

    split: str
    chosen_on: str
    reported_on: str
    n: int
    seeds: list[int]
    metric: str
    settings: list[SettingRow]
    recommendation: Recommendation
    untouched: Number | None = None
    """Right answers of the model without any SAE, where thoughts were spliced."""


@dataclass(frozen=True, kw_only=True)
class GridRow(Record):
    """An SAE of a grid: a row of its `table.parquet`."""

    setting: int
    label: str
    seed: int
    member: str
    hook_name: str | None
    thought_idx: int | None
    status: str
    """trained or failed."""
    reason: str | None
    path: str
    kind: str
    d_in: int
    d_sae: int
    n_vectors: int
    rows_seen: int | None
    lr_peak: float | None
    split: str | None
    n: int | None
    fvu: float | None
    l0: float | None
    dead: int | None
    fvu_within: float | None
    fvu_train: float | None
    loss: float | None
    front: bool


@dataclass(frozen=True, kw_only=True)
class GridSetting(Record):
    """A setting's means over cells and seeds, each SAE counted once."""

    setting: int
    label: str = column("setting")
    n_saes: int = column("SAEs")
    n_failed: int = column("failed")
    n: int
    fvu: float | None = column("FVU")
    l0: float | None = column("L0")
    dead: float | None = column("dead latents")


@dataclass(frozen=True, kw_only=True)
class Point(Record):
    """A setting in one cell, means over seeds."""

    setting: int
    l0: float
    fvu: float


@dataclass(frozen=True, kw_only=True)
class CellFront(Record):
    """How one member answers to all settings."""

    member: str
    hook_name: str | None
    thought_idx: int | None
    points: list[Point]
    front: list[int]
    """Settings that no other beats, or equals, in both L0 and FVU."""


@dataclass(frozen=True, kw_only=True)
class GridOutcome(Outcome):
    """What a grid found."""

    split: str
    seeds: list[int]
    n_saes: int
    n_failed: int
    settings: list[GridSetting]
    fronts: list[CellFront] = column(key="cells")
