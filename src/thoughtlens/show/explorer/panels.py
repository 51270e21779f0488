"""From a table's rows to what a panel of a latent's page is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thoughtlens.acts import ActivationStore
from thoughtlens.core import Json, Record, StoreError, of_table
from thoughtlens.show.explorer.build import rounded, significant
from thoughtlens.show.explorer.rows import (
    Association,
    Coactive,
    Counted,
    Example,
    Graph,
    Logit,
    Match,
    Matched,
    Neighbour,
    Said,
    Spread,
    View,
    values,
)
from thoughtlens.show.explorer.sources import Source, place
from thoughtlens.show.pages.run import Run

MOST_SHOWN = 14
"""Associations of each family on a latent's page."""
FAMILIES: tuple[Callable[[str], bool], ...] = (
    lambda factor: factor.startswith(("label:", "number:")),
    lambda factor: factor == "token",
    lambda factor: factor in ("thought", "hook"),
    lambda factor: factor == "cot",
)
"""Factors that a latent's page shows together."""
EXAMPLE = ("value", "problem_id", "split", "hook_name", "decile")
"""Columns that every example has on a page, under the names of `ExampleLine`."""


@dataclass(frozen=True)
class Around:
    """What a latent's rows point to."""

    answers: Mapping[str, Sequence[Any]]
    """Right answer, the model's answer, and whether it is right, by problem."""
    members: Mapping[tuple[Path, str], int]
    """Number of each SAE on the page, by its directory and name."""

    @classmethod
    def of(cls, run: Run, shown: Sequence[Source]) -> Around:
        """For the latents of a run, where the SAEs `shown` have pages."""
        members = {((s.run.root / "sae").resolve(), s.name): i for i, s in enumerate(shown)}
        return cls(answers_of(run), members)


def answers_of(run: Run) -> dict[str, Sequence[Any]]:
    """Right answer, the model's answer, and whether it is right, by problem; for thoughts."""
    if run.kind == "text":
        return {}
    table = ActivationStore.open(run.root / "acts").problems
    none = [None] * len(table)
    wanted = (
        table[name].to_pylist() if name in table.column_names else none
        for name in ("problem_id", "answer", "model_answer", "correct")
    )
    return {problem_id: answers for problem_id, *answers in zip(*wanted, strict=True)}


def _examples(table: pa.Table, source: Source, around: Around) -> list[list[Any]]:
    of_table(Example, table.slice(0, 0))
    own = (values(table[name]) if name in table.column_names else [None] * len(table) for name in EXAMPLE)
    more = (
        [values(table[name]) for name in ("position", "peak", "tokens", "acts")]
        if "tokens" in table.column_names
        else _on_thoughts(table, source, around)
    )
    return [list(row) for row in zip(*own, *more, strict=True)]


def _on_thoughts(table: pa.Table, source: Source, around: Around) -> list[list[Any]]:
    """The columns of examples of thoughts; the numbers of a strip are 0 where no row of the table is."""
    n, thoughts = len(table), source.about.thoughts or []
    cells = table["strip_hook"].combine_chunks()
    # A crosscoder's one code has a place of its own, named by all of its hooks.
    named = cells.flatten().cast(pa.string()).dictionary_encode()
    hooks = named.dictionary.to_pylist()
    strips = np.zeros((n, len(hooks), len(thoughts)))
    example = np.repeat(np.arange(n), np.diff(cells.offsets))
    column = {thought: j for j, thought in enumerate(thoughts)}
    at = [column[thought] for thought in pc.list_flatten(table["strip_thought"]).to_pylist()]  # type: ignore[attr-defined]
    strips[example, named.indices, at] = pc.list_flatten(table["acts"])  # type: ignore[attr-defined]
    shown, (rows, width) = rounded(strips.ravel()), strips.shape[1:]
    lines = [shown[low : low + width] for low in range(0, len(shown), width)]
    return [
        table["thought_idx"].to_pylist(),
        table["question"].to_pylist() if "question" in table.column_names else [None] * n,
        [around.answers.get(name) for name in table["problem_id"].to_pylist()],
        [hooks] * n,
        [lines[i * rows : (i + 1) * rows] for i in range(n)],
    ]


@dataclass(frozen=True, kw_only=True)
class Node(Record):
    """A node of a token graph."""

    id: int | str
    token: str
    depth: int
    importance: float | None
    activation: float | None


def _graphs(table: pa.Table, source: Source, _: Around) -> list[Json]:
    return [read_graph(row.graph, source) for row in of_table(Graph, table)]


def read_graph(text: str, source: Source) -> Json:
    """Nodes and edges of a token graph.

    Raises:
        StoreError: not a graph, or an edge between nodes that are not there.
    """
    try:
        table = json.loads(text)
        nodes = [_node(**node) for node in table["nodes"]]
        edges = [[a, b] for a, b in table["edges"]]
        if not {node.id for node in nodes}.issuperset(end for edge in edges for end in edge):
            raise ValueError("an edge without its node")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{place(source.run, 'graphs')} holds a damaged token graph of {source.name!r} "
            f"({error}); run explain again"
        ) from None
    return {"nodes": [node.to_json() for node in nodes], "edges": edges, "gaps": table.get("gaps")}


def _node(
    *,
    id: int | str,
    token: str,
    depth: int,
    importance: float | None = None,
    activation: float | None = None,
    **_: Any,
) -> Node:
    if int(depth) < 0:
        raise ValueError(f"{depth} is negative")
    shares = {"importance": significant(importance, 3), "activation": significant(activation, 3)}
    return Node(id=id, token=str(token), depth=int(depth), **shares)


def matches(table: pa.Table, source: Source, around: Around) -> list[list[Any]]:
    """Views of matches."""
    return [_match(row, source, around).line() for row in of_table(Matched, table)]


def _match(row: Matched, source: Source, around: Around) -> Match:
    place = Path(row.other_sae) if row.other_sae else source.run.root / "sae"
    return Match(
        latent=row.latent,
        by=row.by,
        sae=" ".join(part for part in (row.other_sae, row.other_member) if part),
        sae_idx=around.members.get((place.resolve(), row.other_member)),
        other=row.other,
        score=row.score,
        null_score=row.null_score,
    )


def shown_of(associations: pa.Table) -> pa.Table:
    """Of each latent the strongest associations of each family of factors: those that its page shows."""
    factors = associations["factor"].cast(pa.string()).combine_chunks().dictionary_encode()
    names = factors.dictionary.to_pylist()
    families = np.array([next((k for k, own in enumerate(FAMILIES) if own(f)), -1) for f in names], np.int64)
    family = families[factors.indices.to_numpy()] if names else np.zeros(0, np.int64)
    latent = associations["latent"].to_numpy()
    order = np.lexsort((-np.abs(associations["estimate"].to_numpy()), family, latent))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(latent[order]) != 0) | (np.diff(family[order]) != 0)
    start = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    kept = (np.arange(len(order)) - start < MOST_SHOWN) & (family[order] >= 0)
    return associations.take(pa.array(order[kept]))


def _histograms(table: pa.Table, *_: Any) -> list[Json]:
    there = set(table.column_names)
    counts, deciles = (
        values(table[name]) if name in there else [None] * len(table) for name in ("histogram", "deciles")
    )
    return [{"counts": c, "deciles": d} for c, d in zip(counts, deciles, strict=True)]


def _spreads(table: pa.Table, *_: Any) -> list[Json]:
    low, high, counts = (values(table[name]) for name in ("low", "high", "counts"))
    return [{"low": a, "high": b, "counts": c} for a, b, c in zip(low, high, counts, strict=True)]


class Panel(NamedTuple):
    """How the rows of a table become a part of a latent's page."""

    record: type[Record]
    rows: Callable[[pa.Table, Source, Around], list[Any]]
    order: tuple[tuple[str, str], ...] = ()
    """Columns and directions by which a latent's rows are sorted."""
    one: bool = False
    """A latent has one row, or none."""
    only: Callable[[pa.Table], pa.Table] = lambda table: table
    """Which rows of the table are shown."""

    def reader(self, source: Source, around: Around) -> Callable[[pa.Table], list[Any]]:
        """What reads the rows of a table of this SAE."""
        return lambda table: self.rows(table, source, around)

    def show(self, rows: list[Any]) -> Any:
        """The part of one latent's page that its rows make."""
        return next(iter(rows), None) if self.one else rows


def _lines(view: type[View], *order: tuple[str, str]) -> Panel:
    """Rows that are shown as they are."""
    return Panel(view, lambda table, *_: view.lines(table), order)


BY_RANK = ("rank", "ascending")
PANELS = {
    "latents": Panel(Counted, _histograms, one=True),
    "top_examples": Panel(Example, _examples, (BY_RANK,)),
    "decile_examples": Panel(Example, _examples, (("decile", "descending"),)),
    "associations": _lines(Association)._replace(only=shown_of),
    "coactivation": _lines(Coactive, BY_RANK),
    "explanations": _lines(Said, ("chosen", "descending"), ("auprc", "descending")),
    "graphs": Panel(Graph, _graphs, one=True),
    "lens_latents": _lines(Logit, ("sign", "descending"), BY_RANK),
    "lens_logits": Panel(Spread, _spreads, one=True),
    "neighbours": _lines(Neighbour, BY_RANK),
    "matches": Panel(Matched, matches, (("by", "ascending"), ("score", "descending"))),
}
"""By table, which is also the panel's name."""
