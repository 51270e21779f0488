"""What the attention stage writes: its result, and the rows of its tables.

Positions count as thoughts do: -1 is the token before the begin-of-thought position 0, 1 .. n are the
thoughts, n + 1 and on the tokens of the answer's cue.
"""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Number, Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class AskedRow(Record):
    """A problem whose weights are kept, in `questions.parquet`."""

    problem_id: str
    tokens: list[str]
    """The question as the model reads it; the last one stands at position -1."""


@dataclass(frozen=True, kw_only=True)
class WeightsRow(Record):
    """Where one head looks from one position of one problem, in `weights.parquet`."""

    problem_id: str = column(arrow="dictionary")
    query: int = column(arrow="int32")
    """Who looks: a thought, or a token of the cue."""
    layer: int = column(arrow="int32")
    head: int = column(arrow="int32")
    weights: list[float] = column(arrow="float32")
    """From the first token of the question to the query itself; they add up to 1."""


@dataclass(frozen=True, kw_only=True)
class MeanRow(Record):
    """What one head looks at on average, in `means.parquet`."""

    query: int = column(arrow="int32")
    key: int = column(arrow="int32")
    layer: int = column(arrow="int32")
    head: int = column(arrow="int32")
    mean: float = column(arrow="float32")
    n: int = column(arrow="int32")
    """Problems that have both positions."""


@dataclass(frozen=True, kw_only=True)
class LookRow(Record):
    """Where a position looks, mean over layers, heads and problems."""

    query: int = column("from")
    called: str
    """thought 3, begin of thought, or the token of the cue."""
    question: Number
    """Share on what stands before the begin-of-thought position."""
    begin: Number
    thoughts: Number
    """Share on earlier thoughts, 1 .. n."""
    rest: Number
    """Share on itself, and on earlier tokens of the cue."""
    uniform_on_thoughts: float
    """What `thoughts` would be if every position were looked at alike."""
    n_keys: float
    """Positions that it can look at, mean."""


@dataclass(frozen=True, kw_only=True)
class HeadRow(Record):
    """Where one head looks from the last token of the cue, whose output is the answer; mean over problems."""

    layer: int
    head: int
    question: float
    begin: float
    thoughts: float
    rest: float
    most: int
    """The position with the largest mean, from among those that every problem has."""
    on_most: float


@dataclass(frozen=True, kw_only=True)
class AttentionOutcome(Outcome):
    """The stage's result."""

    split: str
    model: str
    model_digest: str | None
    n: int
    n_kept: int
    n_thoughts: int
    n_layers: int
    n_heads: int
    looks: list[LookRow]
    by_head: list[HeadRow]
