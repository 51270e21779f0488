"""A graph: places that hold something, and the ways between them, each tried by an intervention."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from thoughtlens.core import Outcome, Record, column, read_recipe, read_result

MUCH = 0.5
"""How far from the whole answer's the share of a graph may be before this is said."""
NAME = 24
"""Longest text that gives its graph the name as it is."""
FOLDER = "graphs"
"""The folder of a run's graphs, each in a folder of its name."""
Kind = Literal["token", "latent", "error", "answer", "thought"]


@dataclass(frozen=True, kw_only=True)
class GraphNode(Record):
    """A place and what it holds: a word, a latent that fires, what the SAE leaves unexplained, an answer."""

    id: str
    kind: Kind
    column: int
    """Index into `Graph.columns`: tokens of the text from left to right, then thoughts, then the answer."""
    row: int | None = None
    """Index into `Graph.rows`; None: a token or an answer, which lie below and above all of them."""
    thought_idx: int | None = None
    hook_name: str | None = None
    member: str | None = None
    """The SAE, of a latent or an error."""
    latent: int | None = None
    text: str = ""
    """Of a token and of an answer."""
    token_id: int | None = None
    """Of a token and of an answer, in the model's vocabulary."""
    probability: float | None = None
    """Of an answer."""
    says: str | None = None
    """What the latent is said to stand for."""
    activation: float | None = None
    """Of a latent; of an error, its length."""
    share: float | None = None
    """Share of the answer's change that flows through the node; `Graph.definitions` says change of what."""


@dataclass(frozen=True, kw_only=True)
class GraphEdge(Record):
    """A way that was tried."""

    source: str
    """`GraphNode.id`."""
    target: str
    route: str = column(arrow="dictionary")
    """`state`, `layers.0:kv`, `layers.0:out` ..: on which way the source reaches the target."""
    attribution: float
    """What the slope at the untouched run foretells of the effect."""
    effect: float
    """What the intervention takes from the target, less what equally long random ones take; in shares of
    what the target has, where `Graph.definitions` says so."""
    low: float | None = None
    """Lower end of the interval that `Graph.definitions` names; None: there is one problem and no range."""
    high: float | None = None
    at_random: float = 0.0
    """Mean of what equally long random directions do, which is taken off the effect."""
    spread: float | None = None
    """Standard deviation of that."""
    p: float | None = None
    q: float | None = None
    """Corrected over all edges that were tried."""
    flow: float | None = None
    """Share of the answer's change that goes through this edge."""
    shown: bool = True
    n: int = column(default=1, arrow="int32")
    """Runs behind it: problems, twins, texts."""
    variable: str | None = column(default=None, arrow="dictionary")
    """What is carried, in a graph of a class of problems."""


@dataclass(frozen=True, kw_only=True)
class GraphCut(Record):
    """What becomes of the answer when edges, or nodes, carry what another run has there."""

    name: str
    """`cut best`, `cut matched`, `keep shown` .."""
    about: str
    n_cut: int
    """Edges or nodes that are cut; `about` says which."""
    value: float
    """Share of the answer that is left; `Graph.definitions` says how it is measured."""


@dataclass(frozen=True, kw_only=True)
class Graph(Outcome):
    """Nodes, edges, and how far to trust them."""

    name: str
    """Of files and addresses: letters, digits, `-`."""
    model: str
    text: str
    """The question, or what the problems of a class have in common."""
    answer: str
    columns: list[str]
    rows: list[str]
    """Hooks, from the input to the output."""
    nodes: list[GraphNode]
    edges: list[GraphEdge]
    """Those shown; the others that were tried are counted in `n_tried`."""
    n_tried: int
    rank_correlation: float | None = None
    """Spearman's, of attribution and effect over all edges that were tried."""
    slope: float | None = None
    """Of the effect against the attribution, through the origin, over the same."""
    share_shown: float | None = None
    """Share of the answer's change that flows through shown latents and tokens."""
    share_error: float | None = None
    """Share that flows through what the SAEs leave unexplained."""
    cuts: list[GraphCut] = field(default_factory=list)


def carried(n_shown: int, share: float | None, errors: float | None) -> list[str]:
    """What to say of a graph that shows little of what makes the answer, or too much; else nothing."""
    if not n_shown:
        return ["no edge stands out from random directions: the graph is empty"]
    if share is None or MUCH <= share <= 1 + MUCH:
        return []
    rest = "" if errors is None else f", errors {errors:.0%}"
    why = "most of what makes it is not in this graph" if share < MUCH else "other ways take much of it away"
    return [f"what is shown carries {share:.0%} of the answer{rest}: {why}"]


def name_of(kind: str, *asked: str) -> str:
    """Name of the graph of a problem, or of a text and its target: `problem-12`; of what is no name of a file
    as it stands, the first words and the digest."""
    words = _words("".join(asked))
    if words and asked == (words,) and len(words) <= NAME:
        return f"{kind}-{words}"
    return "-".join(part for part in (kind, words[:16].strip("-"), _digest("\0".join(asked))) if part)


def graphs_in(run: Path) -> dict[str, Path]:
    """The finished graphs of a run, by name."""
    root = run / FOLDER
    found = sorted(root.iterdir()) if root.is_dir() else []
    return {one.name: one for one in found if one.suffix != ".tmp" and (one / "result.json").is_file()}


def read_graph(path: Path) -> Graph:
    """The graph that a stage wrote.

    Raises:
        NotThereError: it is not finished.
        StoreError: it is damaged.
    """
    return Graph.from_json(read_result(path))


def place_of_graph(run: Path, kind: str, *asked: str) -> Path:
    """Where the graph is, or will be: under the name of before signs told graphs apart, where it has that."""
    whole = "".join(asked)
    words = _words(whole)
    for former in (words, f"{words[:16]}-{_digest(whole)}", f"{words[:16].strip('-')}-{_digest(whole)}"):
        old = run / FOLDER / f"{kind}-{former}"
        if len(former) <= NAME and (old / "config.toml").is_file():
            stated = read_recipe(old)
            if asked == tuple(stated[key] for key in ("problem", "text", "texts", "target") if key in stated):
                return old
    return run / FOLDER / name_of(kind, *asked)


def _words(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:6]
