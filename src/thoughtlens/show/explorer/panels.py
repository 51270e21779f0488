"""From a table's rows to what a panel of a latent's page is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thoughtlens.acts import ActivationStore
from thoughtlens.core import Json, Record, StoreError
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
    View,
)
from thoughtlens.show.explorer.sources import Source


@dataclass(frozen=True)
class Around:
    """What a latent's rows point to."""

    answers: Mapping[str, Sequence[Any]]
    """Right answer, the model's answer, and whether it is right, by problem."""
    members: Mapping[tuple[Path, str], int]
    """Number of each SAE on the page, by its directory and name."""

    @classmethod
    def of(cls, source: Source, shown: Sequence[Source]) -> Around:
        """For the latents of `source`, where the SAEs `shown` have pages."""
        members = {((s.run.root / "sae").resolve(), s.name): i for i, s in enumerate(shown)}
        return cls(answers_of(source), members)


def answers_of(source: Source) -> dict[str, Sequence[Any]]:
    """Right answer, the model's answer, and whether it is right, by problem; for thoughts."""
    if source.run.kind == "text":
        return {}
    table = ActivationStore.open(source.run.root / "acts").problems
    none = [None] * len(table)
    wanted = (
        table[name].to_pylist() if name in table.column_names else none
        for name in ("problem_id", "answer", "model_answer", "correct")
    )
    return {problem_id: answers for problem_id, *answers in zip(*wanted, strict=True)}


@dataclass(frozen=True, kw_only=True)
class ExamplePage(Record):
    """An example of text on a page."""

    value: float | None
    problem: str
    split: str
    hook: str
    decile: int | None = None


@dataclass(frozen=True, kw_only=True)
class TextPage(ExamplePage):
    """An example of text: its tokens and activations."""

    position: int | None
    peak: int | None
    tokens: list[str]
    acts: list[float | None]


@dataclass(frozen=True, kw_only=True)
class ThoughtPage(ExamplePage):
    """An example of thoughts: activations [hooks, thoughts] of the problem."""

    hooks: list[str]
    thought: int | None
    question: str | None
    answers: Sequence[Any] | None
    strip: list[list[float | None]]


def _examples(rows: list[Example], source: Source, around: Around) -> list[Json]:
    return [_example(row, source, around).to_json() for row in rows]


def _example(row: Example, source: Source, around: Around) -> ExamplePage:
    common: Any = {
        "value": significant(row.value),
        "problem": row.problem_id,
        "split": row.split,
        "hook": row.hook_name,
        "decile": row.decile,
    }
    if row.tokens is not None:
        acts = rounded(row.acts)
        return TextPage(**common, position=row.position, peak=row.peak, tokens=row.tokens, acts=acts)
    # A crosscoder's one code has a place of its own, named by all of its hooks.
    hooks = list(dict.fromkeys(row.strip_hook or ()))
    thoughts = source.about.thoughts or []
    strip = np.zeros((len(hooks), len(thoughts)))
    for hook, thought, act in zip(row.strip_hook or (), row.strip_thought or (), row.acts, strict=True):
        strip[hooks.index(hook), thoughts.index(thought)] = act
    return ThoughtPage(
        **common,
        hooks=hooks,
        thought=row.thought_idx,
        question=row.question,
        answers=around.answers.get(row.problem_id),
        strip=[rounded(line) for line in strip.tolist()],
    )


def _lines(rows: list[View], *_: Any) -> list[list[Any]]:
    return [row.line() for row in rows]


def _explanations(rows: list[Said], *_: Any) -> list[Json]:
    return [replace(row, **{key: significant(v, 3) for key, v in _floats(row)}).to_json() for row in rows]


def _floats(row: Record) -> list[tuple[str, float]]:
    found = ((one.name, getattr(row, one.name)) for one in fields(row))
    return [(name, value) for name, value in found if isinstance(value, float)]


@dataclass(frozen=True, kw_only=True)
class Node(Record):
    """A node of a token graph."""

    id: int | str
    token: str
    depth: int
    importance: float | None
    activation: float | None


def _graph(rows: list[Graph], source: Source, _: Around) -> Json | None:
    return read_graph(rows[0].graph, source) if rows else None


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
            f"{source.run.root}/explain/graphs.parquet holds a damaged token graph of {source.name!r} "
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


def matches(rows: Sequence[Matched], source: Source, around: Around) -> list[list[Any]]:
    """Views of matches, for each latent the best one of each kind first."""
    found = []
    for row in rows:
        place = Path(row.other_sae) if row.other_sae else source.run.root / "sae"
        match = Match(
            latent=row.latent,
            by=row.by,
            sae=" ".join(part for part in (row.other_sae, row.other_member) if part),
            sae_idx=around.members.get((place.resolve(), row.other_member)),
            other=row.other,
            score=row.score,
            null_score=row.null_score,
        )
        found.append(match)
    found.sort(key=lambda match: (match.latent, match.by, -(significant(match.score, 3) or 0)))
    return [match.line() for match in found]


def _histogram(rows: list[Counted], *_: Any) -> Json:
    deciles = rows[0].deciles
    return {"counts": rows[0].histogram, "deciles": deciles and rounded(deciles)}


class Panel(NamedTuple):
    """How the rows of a table become a part of a latent's page."""

    record: type[Record]
    show: Callable[[Any, Source, Around], Any]
    order: tuple[tuple[str, str], ...] = ()
    """Columns and directions by which a latent's rows are sorted."""


BY_RANK = (("rank", "ascending"),)
PANELS = {
    "latents": Panel(Counted, _histogram),
    "top_examples": Panel(Example, _examples, BY_RANK),
    "decile_examples": Panel(Example, _examples, (("decile", "descending"),)),
    "associations": Panel(Association, _lines),
    "coactivation": Panel(Coactive, _lines, BY_RANK),
    "explanations": Panel(Said, _explanations, (("chosen", "descending"), ("auprc", "descending"))),
    "graphs": Panel(Graph, _graph),
    "lens_latents": Panel(Logit, _lines, (("sign", "descending"), *BY_RANK)),
    "neighbours": Panel(Neighbour, _lines, BY_RANK),
    "matches": Panel(Matched, matches),
}
"""By table, which is also the panel's name."""
