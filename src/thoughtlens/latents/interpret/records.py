"""What the interpret stage writes: its result, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thoughtlens.core import Number, Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class Tested(Record):
    """How many preferences for one factor were tested, and how many hold."""

    factor: str
    n: int
    """Problems."""
    n_tested: int
    n_latents: int
    n_q_below: int = column(key="n_q_below_0.05")
    n_p_max_below: int = column(key="n_p_max_below_0.05")


@dataclass(frozen=True, kw_only=True)
class MemberSummary(Record):
    """One SAE in the stage's result."""

    member: str
    hook_names: list[str]
    thoughts: list[int] | None
    kind: str
    d_sae: int
    split: str
    n: int
    """Vectors."""
    n_problems: int
    l0: float
    n_alive: int
    n_everywhere: int
    warnings: list[str]
    preferences: list[Tested] = field(default_factory=list)
    persistence: dict[str, int] | None = None
    """Crosscoders: latents by status."""
    n_groups: int | None = None
    """Groups of problems: those of one are not independent."""


@dataclass(frozen=True, kw_only=True)
class InterpretOutcome(Outcome):
    """The stage's result."""

    split: str
    kind: str
    members: list[MemberSummary]
    histogram_edges: list[float]
    headline: Mapping[str, Number | int] = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=dict
    )


@dataclass(frozen=True, kw_only=True)
class LatentRow(Record):
    """A latent in `latents.parquet`."""

    member: str = column("SAE", arrow="dictionary")
    latent: int = column(arrow="int32")
    n_vectors: int
    n_fires: int = column("firings")
    density: float
    n_problems: int = column("problems")
    mean_active: float = column("mean where it fires")
    max_active: float = column("maximum")
    outlier_norm_share: float = column("activation on outliers")
    outlier_norm_examples: float = column("top examples on outliers")
    first_position_share: float = column("activation on first positions")
    first_position_examples: float = column("top examples on first positions")
    everywhere: bool
    everywhere_reason: str | None = column("dense for")
    histogram: list[int]
    deciles: list[float] = column(arrow="float32")
    min_active: float = column("minimum", default=0.0)
    """0, or less where the latent goes below it."""


@dataclass(frozen=True, kw_only=True)
class ExampleRow(Record):
    """What every example has, in `top_examples.parquet` and `decile_examples.parquet`."""

    member: str = column("SAE", arrow="dictionary")
    latent: int = column(arrow="int32")
    decile: int | None = column(default=None, arrow="int32")
    """Only in `decile_examples.parquet`: 1 (weakest) to 10."""
    rank: int = column(arrow="int32")
    value: float = column("activation", arrow="float32")
    row: int
    """Row of the store."""
    hook_name: str
    problem_id: str
    split: str


@dataclass(frozen=True, kw_only=True)
class TextExample(ExampleRow):
    """An example of text: the tokens around the one that it is on, and the latent's activation on each."""

    position: int = column(arrow="int32")
    peak: int = column(arrow="int32")
    """Which of `tokens` it is on."""
    token_ids: list[int] = column(arrow="int32")
    tokens: list[str]
    acts: list[float] = column(arrow="float32")


@dataclass(frozen=True, kw_only=True)
class ThoughtExample(ExampleRow):
    """An example of thoughts: the latent's activation on every hook and thought of its problem."""

    question: str | None = None
    thought_idx: int = column(arrow="int32")
    strip_hook: list[str] = column(arrow="dictionary")
    strip_thought: list[int] = column(arrow="int32")
    acts: list[float] = column(arrow="float32")


@dataclass(frozen=True, kw_only=True)
class AssociationRow(Record):
    """A latent's preference for one level of a factor, in `associations.parquet`."""

    member: str = column("SAE")
    latent: int = column(arrow="int32")
    factor: str
    level: str
    statistic: str
    estimate: float
    low: float
    high: float
    rate_in: float | None
    rate_out: float | None
    n_fires: int = column("firings")
    n_problems: int = column("problems")
    z: float
    q_value: float
    p_max: float
    direction: str | None = None
    """`more` or `less`: how often it fires there, against elsewhere (numbers: with larger ones)."""


@dataclass(frozen=True, kw_only=True)
class CountRow(Record):
    """Firings of a latent on the vectors of one level, in `counts.parquet`."""

    member: str = column("SAE", arrow="dictionary")
    latent: int = column(arrow="int32")
    by: str
    level: str
    n_fires: int = column("firings")
    n: int


@dataclass(frozen=True, kw_only=True)
class CoactiveRow(Record):
    """A latent that fires on the same vectors as another, in `coactivation.parquet`."""

    member: str = column("SAE", arrow="dictionary")
    latent: int = column(arrow="int32")
    rank: int = column(arrow="int32")
    other: int = column(arrow="int32")
    n_both: int
    jaccard: float


@dataclass(frozen=True, kw_only=True)
class SiteRow(Record):
    """What a crosscoder's latent writes at one site, in `sites.parquet`."""

    member: str = column("SAE", arrow="dictionary")
    latent: int = column(arrow="int32")
    site: int = column(arrow="int32")
    hook_name: str
    thought_idx: int | None = column(arrow="int32")
    norm: float
    share: float
    norm_share: float
    written: float
    present: bool
    status: str
