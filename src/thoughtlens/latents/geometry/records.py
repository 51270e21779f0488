"""What the geometry stage writes: its result, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from thoughtlens.core import Number, Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class NeighbourRow(Record):
    """One of the nearest other latents of a latent, in `neighbours.parquet`."""

    member: str = column("SAE", arrow="dictionary")
    latent: int = column(arrow="int32")
    rank: int = column(arrow="int32")
    other: int = column(arrow="int32")
    cosine: float = column(arrow="float32")


@dataclass(frozen=True, kw_only=True)
class MatchRow(Record):
    """The latent of another SAE that is most like a latent, in `matches.parquet`."""

    member: str = column("SAE", arrow="dictionary")
    latent: int = column(arrow="int32")
    other_sae: str = column(arrow="dictionary")
    other_member: str = column(arrow="dictionary")
    other: int = column(arrow="int32")
    by: str = column(arrow="dictionary")
    score: float
    null_score: float
    fit_score: float | None
    p: float | None
    p_max: float | None
    untrained_score: float | None = None
    p_untrained: float | None = None
    transferred: bool | None = None


@dataclass(frozen=True, kw_only=True)
class DecoderScores(Record):
    """Two SAEs by decoder directions."""

    n: int
    n_other: int
    d: int
    mmcs_of_a: float
    mmcs_of_b: float
    mcc: float
    mcc_exact: bool
    share_matched: dict[str, float]
    """Share of assigned pairs at or above each |cosine|."""
    share_matched_chance: dict[str, float] = field(default_factory=dict)
    """The same for Gaussian directions, which are what an untrained SAE has."""
    mmcs_of_a_chance: float
    mmcs_of_b_chance: float
    mcc_chance: float


@dataclass(frozen=True, kw_only=True)
class ActivationScores(Record):
    """Two SAEs by what their latents do on the same problems."""

    n: int
    n_other: int
    n_units_fit: int
    n_units_held_out: int
    mean_score: float
    mean_null_score: float
    mean_untrained_score: float | None = None
    share_transferred: float
    share_transferred_low: float
    share_transferred_high: float
    share_above_permuted: float | None = None
    share_above_permuted_untrained: float | None = None
    share_at: dict[str, float]
    null_share_at: dict[str, float]
    untrained_share_at: dict[str, float] = field(default_factory=dict)
    mcc: float
    mcc_exact: bool
    mcc_chance: float
    mcc_chance_exact: bool
    mcc_untrained: float | None = None


@dataclass(frozen=True, kw_only=True)
class PairNames(Record):
    """Which two SAEs were compared; `other_sae` is empty within one directory."""

    member: str
    other_sae: str
    other_member: str


@dataclass(frozen=True, kw_only=True)
class DecoderPair(DecoderScores, PairNames):
    """A pair in the result, by decoder."""

    by: Literal["decoder"] = "decoder"


@dataclass(frozen=True, kw_only=True)
class ActivationPair(ActivationScores, PairNames):
    """A pair in the result, by activation."""

    by: Literal["activation"] = "activation"
    unit: str
    pool: str
    split: str


@dataclass(frozen=True, kw_only=True)
class ComparedPair(Record):
    """What comparing one pair of SAEs gave, by each way in which it can be compared."""

    rows: list[DecoderPair | ActivationPair]


@dataclass(frozen=True, kw_only=True)
class Stability(Record):
    """How far the SAEs of one name in several directories agree by decoder."""

    member: str
    n_pairs: int
    mcc: float
    mcc_least: float
    mcc_chance: float
    share_matched: dict[str, float]
    share_matched_chance: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BesideChance(Number):
    """A number with what unrelated SAEs would give."""

    chance: float


@dataclass(frozen=True, kw_only=True)
class GeometryOutcome(Outcome):
    """The stage's result."""

    split: str
    members: list[str]
    pairs: list[DecoderPair | ActivationPair]
    stability: list[Stability]
    headline: Mapping[str, BesideChance | Number] = field(default_factory=dict)
