"""What the textgraph stage writes: a graph, and the rows of its table."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Record, column
from thoughtlens.tracing.graphs.records import Graph


@dataclass(frozen=True, kw_only=True)
class TriedRow(Record):
    """An edge that was tried, in `edges.parquet`."""

    source: str = column(arrow="dictionary")
    """`GraphNode.id`."""
    target: str = column(arrow="dictionary")
    attribution: float
    """What the slope foretells of the effect."""
    effect: float
    """Share of what the target has that goes with the source, straight, less what random changes take."""
    low: float | None
    high: float | None
    at_random: float
    spread: float
    p: float
    q: float
    flow: float
    """Share of the answer that goes through this edge."""
    whole: float
    """The same share where nothing is held and all that follows may follow, nothing taken off."""
    on_answer: float
    """The share of the answer that goes with the source then."""
    shown: bool
    n: int = column(arrow="int32")
    """Texts in which the target is there."""


@dataclass(frozen=True, kw_only=True)
class TextgraphOutcome(Graph):
    """The stage's result."""

    model_digest: str | None
    texts: list[str]
    members: list[str]
    reads: list[str]
    """Of each of `rows`, the hook that its dictionary reads; another one for a transcoder."""
    share_bare: float | None = None
    """Share of the answer that goes when the blocks without a dictionary pass on what comes in, all
    dictionaries' hooks held: mean over texts; 0 where no block is without, None in
    a graph of before this was measured."""
    n_candidates: int
    """Edges that the slope says carry anything, into the nodes that were looked at."""
    budget: int
    n_random: int
    n_targets: int
