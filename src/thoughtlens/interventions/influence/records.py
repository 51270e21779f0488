"""What the influence stage gives back, and the rows of its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thoughtlens.core import Number, Outcome, Record, column

ANSWER = "answer"
CARRIES, SOME, NOTHING, ALIKE, UNCLEAR, MOVES, AS_RANDOM = (
    "carries", "in part", "nothing", "alike", "unclear", "moves", "as random",
)  # fmt: skip
ROUTES = ("thought_out", "kv", "keys", "values")
"""Parts that are single ways out of a thought."""


@dataclass(frozen=True, kw_only=True)
class MoveRow(Record):
    """A row of `moves.parquet`: what one edited thought changes at one place."""

    chain: str = column(arrow="dictionary")
    """thoughts, words, or pause."""
    edit: str = column(arrow="dictionary")
    site: str = column("edited", arrow="dictionary")
    path: str = column(arrow="dictionary")
    """total, or direct: the thoughts between are held as they were."""
    thought_idx: int = column("thought", arrow="int32")
    """Which is edited."""
    to: int | None = column("moves thought", default=None, arrow="int32", null=True)
    """None: the answer."""
    layer: int | None = column(default=None, arrow="int32", null=True)
    """Block whose output is compared; None: thought_out, or the answer."""
    n: int = column(arrow="int32")
    n_groups: int = column(arrow="int32")
    kl: float = column("KL (nats)")
    kl_low: float
    kl_high: float
    kl_random: float
    change: float | None = column("change (spreads)", default=None, null=True)
    change_low: float | None = column(default=None, null=True)
    change_high: float | None = column(default=None, null=True)
    change_random: float | None = column(default=None, null=True)
    beyond_random: float
    beyond_random_low: float
    beyond_random_high: float
    carried: float | None = column(default=None, null=True)
    carried_low: float | None = column(default=None, null=True)
    carried_high: float | None = column(default=None, null=True)
    carried_random: float | None = column(default=None, null=True)
    apart: float | None = column(default=None, null=True)
    n_carried: int | None = column(default=None, arrow="int32", null=True)
    """Problems that differ from their donor there."""
    n_groups_carried: int = column(default=0, arrow="int32")
    reading_changes: float
    reading_follows: float | None = column(default=None, null=True)
    p_holm: float
    verdict: str = column(arrow="dictionary")

    @property
    def target(self) -> str:
        """What is moved, in a word."""
        return ANSWER if self.to is None else str(self.to)


@dataclass(frozen=True, kw_only=True)
class Handed(Number):
    """How often something is handed on, thought by thought, until it comes to the answer."""

    way: str | None = None
    """2 > 3 > 4 > answer."""
    sites: list[str] = field(default_factory=list)
    """By which part each of the thoughts on the way hands it on."""


@dataclass(frozen=True, kw_only=True)
class InfluenceOutcome(Outcome):
    """Which thought moves which, in the chains of one model."""

    model: str
    model_digest: str | None
    split: str
    n: int
    layers: list[int]
    headline: Mapping[str, Number | Handed] = field(default_factory=dict)
    moves: list[MoveRow]
    """Of thought_out and the answer; `moves.parquet` has the blocks' outputs, too."""
