"""What the explain stage writes: its result, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thoughtlens.core import Number, Outcome, Record, column

UNKNOWN = "unknown"
"""The explanation of a latent that nothing was found for."""


@dataclass(frozen=True, kw_only=True)
class ExplanationRow(Record):
    """One method's explanation of a latent, in `explanations.parquet`."""

    member: str = column("SAE")
    latent: int = column(arrow="int32")
    method: str
    text: str = column("explanation")
    auprc: float
    precision_at_half_recall: float
    pearson: float | None
    precision: float
    recall: float
    base_rate: float
    n: int
    n_units: int
    n_fires: int = column("firings")
    split: str
    auprc_low: float
    auprc_high: float
    token_auprc: float | None
    random_auprc: float
    validation_auprc: float
    chosen: bool
    verdict: str | None = None
    """How far it can be trusted, in words: `verdict_of`."""
    n_fires_thinking: int | None = None
    """Firings outside of begin-of-thought."""
    auprc_thinking: float | None = None
    """`auprc` over the test vectors outside of begin-of-thought; None where it does not fire there."""
    says: str | None = None
    """The role or column that its first clause speaks of; None where it has no clauses, or is unknown."""
    value: str | None = None
    """Value of that column in the first clause."""
    thoughts: list[int] | None = None
    """Thoughts of the first clause; None of text, and where there is no clause."""
    clauses: str | None = None
    """JSON: all of its clauses, each with `says`, `value`, `thoughts`, `hooks`, `also` (thoughts by
    condition), `precision` and `recall`; None for methods without clauses."""


@dataclass(frozen=True, kw_only=True)
class GraphRow(Record):
    """A latent's token graph, in `graphs.parquet`."""

    member: str = column("SAE")
    latent: int = column(arrow="int32")
    graph: str
    """JSON: nodes, edges and gaps."""


@dataclass(frozen=True, kw_only=True)
class PartSize(Record):
    """The vectors of one part of the problems."""

    split: str
    n: int
    n_units: int


@dataclass(frozen=True, kw_only=True)
class ExplainedMember(Record):
    """One SAE in the stage's result."""

    member: str
    hook_names: list[str]
    d_sae: int
    n_eligible: int
    n_explained: int
    n_graphs: int
    parts: dict[str, PartSize]
    n_refined: int = 0
    """Latents that the methods other than `roles` explain too."""
    n_live: int = 0
    """Latents that fire on any vector of the three parts."""
    n_live_thinking: int = 0
    """Latents that fire on any of these vectors outside of begin-of-thought."""
    n_fires_thinking: int = 0
    """Firings of all latents on test vectors outside of begin-of-thought."""
    nulls: dict[str, Number] = field(default_factory=dict)
    """Of the SAE shown: the share of live latents explained as well of a random SAE, and with permuted
    labels."""


@dataclass(frozen=True, kw_only=True)
class ExplainedPart(Record):
    """What explaining one SAE gave."""

    summary: ExplainedMember
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class MethodScores(Record):
    """Means over the latents that a method explained; `chosen`: the explanations shown."""

    method: str
    n_latents: int
    auprc: float
    precision_at_half_recall: float
    token_auprc: float | None
    random_auprc: float
    base_rate: float
    auprc_low: float | None
    auprc_high: float | None
    n_above_random: int


@dataclass(frozen=True, kw_only=True)
class MeanScore(Number):
    """A mean over latents; of a single latent without interval."""

    low: float | None = column(default=None, null=True)
    high: float | None = column(default=None, null=True)


@dataclass(frozen=True, kw_only=True)
class ExplainOutcome(Outcome):
    """The stage's result."""

    kind: str
    members: list[ExplainedMember]
    methods: list[MethodScores]
    headline: Mapping[str, Number | int] = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=dict
    )
    choice: str
