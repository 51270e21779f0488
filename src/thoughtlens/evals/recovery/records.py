"""What the recovery stage gives back, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thoughtlens.core import Number, Outcome, Record, column

RIVALS = {"neurons": "raw neurons", "pca": "PCA directions", "random": "a random SAE"}
"""Baselines, beside k-means, that learn nothing from the labels."""


@dataclass(frozen=True, kw_only=True)
class At(Record):
    """A place that is read."""

    hook_name: str
    thought_idx: int | None = column("thought", default=None, null=True)


@dataclass(frozen=True, kw_only=True)
class Recovered(Record):
    """How well a dictionary's codes tell the values of a variable at one place, on test problems."""

    found: Number
    """Share of the values that one latent tells with F1 of at least `found_at`."""
    found_by_two: Number
    """The same where two latents together may speak for a value."""
    best_f1: Number
    """Mean over the values of the F1 of the latent chosen for each."""


@dataclass(frozen=True, kw_only=True)
class Kinds(Record):
    """Where values come in kinds (`+3` and `+7` are additions): whether the kinds have latents too."""

    n_kinds: int
    found: Number
    """Share of the kinds that one latent tells, at the place of the values."""
    absorbed: Number
    """Share of rows on which the latent of the value fires and that of its kind does not."""
    composed: Number
    """Share of rows on which both fire."""


@dataclass(frozen=True, kw_only=True)
class Variable(Recovered):
    """A variable where it is read best, with its two ceilings."""

    place: At
    n_values: int
    probe: Number
    """Accuracy of a linear probe."""
    likeliest: Number | None = None
    """Accuracy of always saying the most frequent value; unset in results of earlier versions."""
    variance_share: Number
    """Share of the variance of the states that lies between the values (eta squared)."""
    permuted: Recovered
    """The same dictionary on labels dealt to other problems."""
    baselines: Mapping[str, Recovered]
    more_than_kmeans: Number | None = None
    """`found_by_two` less that of k-means on the same problems, with a verdict."""
    as_well: list[str] = field(default_factory=list)
    """Baselines without labels that tell as many: the interval of what the SAE finds more ends below 0.05."""
    n_latents: Number | None = None
    """Latents that a value is split into, mean over the values."""
    shared: Number | None = None
    """Share of the values whose latent speaks for another value too."""
    kinds: Kinds | None = None


@dataclass(frozen=True, kw_only=True)
class VariableBy(Variable):
    """A variable over all problems, and again for those of each value of the columns `by`."""

    by: Mapping[str, Mapping[str, Variable]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Followed(Record):
    """The latent, at any place, whose activation follows a number that has too many values to be listed."""

    place: At
    latent: int
    rank_correlation: Number
    """Spearman's on test problems; `p` is that of the search on validation problems, against the largest of
    all places and latents under numbers dealt to other groups."""
    neurons: Number | None = None
    """The same of the best neuron at any place."""


@dataclass(frozen=True, kw_only=True)
class RecoveryOutcome(Outcome):
    """What the stage found."""

    member: str
    d_sae: int
    l0: float
    """Latents that fire per row of the SAE's places, test split."""
    kind: str
    split: str
    found_at: float
    variables: Mapping[str, VariableBy]
    numbers: Mapping[str, Followed] = field(default_factory=dict)
    """By label column of numbers with more than `max_values` values; their bins are in `variables`."""
    conclusion: str = ""
    """Whether the SAE finds more than k-means does, in a sentence."""
    n_made: int = 0
    """Test problems that were made, beside those of the store."""
    left_out: list[str]
    """Columns that were not looked for, and why."""


@dataclass(frozen=True, kw_only=True)
class ValueRow(At):
    """The latents that speak for a value, in `values.parquet`."""

    variable: str
    condition: str
    """Such as n_steps=3; empty: all problems."""
    value: str
    latent: int = column(arrow="int32")
    precision: float
    recall: float
    f1: float = column("F1")
    second: int = column("second latent", arrow="int32")
    """Equal to `latent` where no second one helps."""
    f1_of_two: float = column("F1 of both")
    n_latents: int = column("latents it is split into")
    """Latents half of whose firings or more are this value, and that tell a tenth of it or more."""
    n_sharing: int = column("values that share the latent")
    """Values that are a tenth of the latent's firings or more."""
    n: int
    split: str


@dataclass(frozen=True, kw_only=True)
class PlaceRow(At):
    """A variable at a place, on validation problems, in `places.parquet`."""

    variable: str
    condition: str
    probe: float
    variance_share: float
    best_f1: float = column("mean best F1")
    best_f1_of_two: float = column("mean best F1 of two")
    chosen: bool
    n: int
