"""What the lens stage writes: its result, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thoughtlens.core import Number, Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class SummaryRow(Record):
    """How often one lens reads one column's word at a hook and thought, in `summary.parquet`."""

    lens: str
    hook_name: str
    thought_idx: int | None = column("thought", arrow="int32")
    column: str
    subset: str
    n: int
    n_groups: int
    rate: float
    low: float
    high: float
    rate_top: float
    null: float | None
    null_high: float | None
    p: float | None
    p_max: float | None


@dataclass(frozen=True, kw_only=True)
class HitRow(Record):
    """How often one lens reads a problem's word where it reads that column best, in `hits.parquet`."""

    lens: str = column(arrow="dictionary")
    column: str = column(arrow="dictionary")
    problem_id: str
    n: int
    """States of the problem that have a right word."""
    hits: int


@dataclass(frozen=True, kw_only=True)
class KLRow(Record):
    """What the tuned lens gains at a hook and thought, in `kl.parquet`; nats."""

    hook_name: str
    thought_idx: int = column("thought")
    n: int
    n_fit: int
    is_identity: bool
    kl_logit: float
    kl_logit_low: float
    kl_logit_high: float
    kl_tuned: float
    kl_tuned_low: float
    kl_tuned_high: float
    kl_constant: float
    kl_constant_low: float
    kl_constant_high: float
    kl_gain: float
    kl_gain_low: float
    kl_gain_high: float
    kl_gain_doubt: str | None = None
    """Why the interval of the gain may be too narrow."""


@dataclass(frozen=True, kw_only=True)
class ReadingRow(Record):
    """One of the strongest tokens of a state, in `readings.parquet`."""

    lens: str = column(arrow="dictionary")
    hook_name: str = column(arrow="dictionary")
    thought_idx: int | None = column("thought", arrow="int32")
    problem_id: str
    rank: int = column(arrow="int32")
    token_id: int = column(arrow="int32")
    token: str = column(arrow="dictionary")
    probability: float = column(arrow="float32")
    position: int | None = column(default=None, arrow="int32")
    """Only of text."""


@dataclass(frozen=True, kw_only=True)
class TokenRow(Record):
    """A token that is often the strongest at a hook and thought, in `tokens.parquet`."""

    lens: str = column(arrow="dictionary")
    hook_name: str = column(arrow="dictionary")
    thought_idx: int | None = column("thought", arrow="int32")
    rank: int = column(arrow="int32")
    token_id: int = column(arrow="int32")
    token: str
    share: float
    n: int


@dataclass(frozen=True, kw_only=True)
class LatentTokenRow(Record):
    """A token that a latent's decoder row raises or lowers, in `latents.parquet`."""

    member: str = column("SAE", arrow="dictionary")
    latent: int = column(arrow="int32")
    sign: int = column(arrow="int8")
    rank: int = column(arrow="int32")
    token_id: int = column(arrow="int32")
    token: str
    logit: float = column(arrow="float32")


@dataclass(frozen=True, kw_only=True)
class LatentLogitsRow(Record):
    """How many tokens a latent's decoder row changes by how much, in `logits.parquet`."""

    member: str = column("SAE", arrow="dictionary")
    latent: int = column(arrow="int32")
    low: float = column(arrow="float32")
    high: float = column(arrow="float32")
    counts: list[int]
    """Tokens in equal bins from the lowest logit to the highest."""


@dataclass(frozen=True, kw_only=True)
class ReadRate(Number):
    """The rate at the hook and thought where a lens reads the right word most often."""

    null: float | None
    p_max: float | None
    hook_name: str
    thought_idx: int | None


@dataclass(frozen=True, kw_only=True)
class LensOutcome(Outcome):
    """The stage's result."""

    split: str
    kind: str
    model: str
    model_digest: str | None
    n: int
    n_vocab: int
    best: list[SummaryRow]
    """For each column and lens, the place where the lens reads it most often."""
    kl: list[KLRow]
    headline: Mapping[str, ReadRate | Number] = field(default_factory=dict)
