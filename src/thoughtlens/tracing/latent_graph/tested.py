"""How far a graph holds: its best nodes cut, as many others cut, and everything but some nodes cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from thoughtlens.models import Place
from thoughtlens.tracing.graphs.records import GraphCut, GraphEdge
from thoughtlens.tracing.latent_graph.cuts import Cuts, Part
from thoughtlens.tracing.latent_graph.runs import Runs
from thoughtlens.tracing.latent_graph.subject import Subject
from thoughtlens.tracing.latent_graph.trials import ANSWER

BEST = 10
"""Nodes that are cut, the best ones and as many others."""


class Tested(NamedTuple):
    """What came of it."""

    cuts: list[GraphCut]
    share_shown: float | None
    share_error: float | None
    n_donors: int
    alike: float = 0.0
    """Share of the donors that have the same answer."""


def tested(own: Subject, edges: Sequence[GraphEdge]) -> Tested:
    """Put the shown edges' nodes to the test; nothing where no other problem has as many tokens."""
    donors = [text for text in own.others if own.fits(text)][: own.cfg.n_donors]
    if not donors:
        return Tested([], None, None, 0)
    parts = _parts(own)
    runs = Runs.of(own.model, own.cover.cells, donors, own.cover.bare)
    test = Cuts(own.runs, runs, own.answer, parts, own.cover.bare)
    worth = dict.fromkeys(parts, 0.0)
    shown = {name for edge in edges if edge.shown for name in (edge.source, edge.target)} - {ANSWER}
    for edge in edges:
        worth[edge.source] += (edge.flow or 0.0) * edge.shown
    best = sorted(shown, key=lambda name: (-worth[name], name))[:BEST]
    errors = {name for name, part in parts.items() if part.position is None and part.latent is None}
    others = _matched(test, best, {*parts} - shown - errors)
    kept, explained = test.keep(shown), test.keep({*parts} - errors)
    found = {
        "cut best": (f"the {len(best)} shown nodes through which most flows", len(best), test.cut({*best})),
        "cut matched": (f"{len(others)} other nodes that differ as much", len(others), test.cut(others)),
        "keep shown": (
            f"all but the {len(shown)} shown nodes" if shown else "all nodes, as none is shown,",
            len(parts) - len(shown),
            kept,
        ),
        "keep latents and words": (f"the {len(errors)} errors", len(errors), explained),
    }  # fmt: skip
    cuts = [
        GraphCut(name=name, about=f"{about} are cut", n_cut=n, value=left.same)
        for name, (about, n, left) in found.items()
        if n
    ]
    share_error = None if explained.share is None else 1 - explained.share
    return Tested(cuts, kept.share, share_error, len(donors), test.alike)


def _parts(own: Subject) -> dict[str, Part]:
    """By node what it is; the answer is none."""
    return {
        node.id: Part(None, position=node.column)
        if node.kind == "token"
        else Part(Place(node.hook_name or "", node.thought_idx), node.latent)
        for node in own.nodes.values()
        if node.id != ANSWER
    }


def _matched(test: Cuts, best: Sequence[str], outside: set[str]) -> set[str]:
    """For each node one of its kind outside the graph whose value differs most nearly as much."""
    found, length = set[str](), {name: test.length(name) for name in (*best, *outside)}
    for name in best:
        is_word = test.parts[name].place is None
        alike = [one for one in sorted(outside - found) if (test.parts[one].place is None) == is_word]
        if alike:
            found.add(min(alike, key=lambda one: abs(length[one] - length[name])))
    return found
