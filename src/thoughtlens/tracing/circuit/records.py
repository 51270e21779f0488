"""What the circuit stage writes: its result, and the rows of its table."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Number, Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class EdgeRow(Record):
    """An edge that was tried for one variable, in `edges.parquet`."""

    arm: str = column("of", arrow="dictionary")
    """`thoughts`, or a control: `pause`, or `shuffled`, where each problem has another one's change."""
    variable: str = column(arrow="dictionary")
    """What the twins' questions change: `start`, or an operation by its number, `op1`."""
    source: str = column("from", arrow="dictionary")
    """`question: VARIABLE`, `question: other words`, or `thought 3`."""
    target: str = column("to", arrow="dictionary")
    """`thought 4`, or `answer`."""
    route: str = column(arrow="dictionary")
    """`state`, or `layers.0:kv`."""
    varies: float
    """How far the variable moves the target: mean squared difference of twins in squared standard deviations
    over problems (2: as far as two problems are apart)."""
    attribution: float
    """What the slope at the untouched run foretells of the effect."""
    effect: float
    """Share of the target's change that comes directly on this edge, less that of a random change."""
    low: float
    high: float
    at_random: float
    """Share that an equally long random change at the same place makes."""
    p: float
    q: float
    flow: float
    """Share of the answer's change that goes through this edge: its effect times what flows from its target
    to the answer."""
    shown: bool
    n: int = column(arrow="int32")
    stability: float | None = None
    """Share of graphs of resampled problems that show the edge."""
    turned: float | None = None
    """How far the edge moves its target in any direction: squared length of the change made / that of the
    twin's change, less the same of a random change."""
    does: str | None = column(default=None, null=True)
    """`carries`: what flows is enough to be shown; `guards`: it carries little, and alone turns its target
    elsewhere, so that it must agree with the other edges; None: not shown."""


@dataclass(frozen=True, kw_only=True)
class Node(Record):
    """A node of the graph."""

    name: str
    thought_idx: int | None
    varies: dict[str, float]
    """By variable, see `EdgeRow.varies`."""


@dataclass(frozen=True, kw_only=True)
class Cut(Record):
    """Right answers when edges carry another problem's states."""

    name: str
    about: str
    n_edges: int
    """Edges that are cut."""
    accuracy: Number


@dataclass(frozen=True, kw_only=True)
class Arm(Record):
    """What was tried of the model, or of a control."""

    name: str
    n: int
    n_tried: int
    n_shown: int
    n_state: int
    """Shown edges through a fed-back state."""
    flow: dict[str, float]
    """By variable, the share of the answer's change that flows through shown edges from the question."""


@dataclass(frozen=True, kw_only=True)
class CircuitOutcome(Outcome):
    """The stage's result."""

    split: str
    model: str
    model_digest: str | None
    n: int
    n_steps: int
    nodes: list[Node]
    edges: list[EdgeRow]
    """Those shown, of the model itself."""
    rank_correlation: float | None
    """Spearman's, of attribution and effect over all edges that were tried."""
    slope: float | None
    """Of the effect against the attribution, through the origin."""
    cuts: list[Cut]
    arms: list[Arm]
