"""The graph stage: of one problem which latent makes which, at which thought, and on which way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from thoughtlens.acts import ActivationStore, StoreSize, thought_model
from thoughtlens.core import DataError, Number, Plan, Result, StoreError, run_stage, write_rows
from thoughtlens.tracing.graphs.records import GraphEdge, carried, name_of
from thoughtlens.tracing.graphs.trials import correlation, through
from thoughtlens.tracing.graphs.viewers import write_for_viewers
from thoughtlens.tracing.latent_graph.cells import covered
from thoughtlens.tracing.latent_graph.config import GraphConfig
from thoughtlens.tracing.latent_graph.records import GraphOutcome
from thoughtlens.tracing.latent_graph.subject import Subject
from thoughtlens.tracing.latent_graph.tested import Tested, tested
from thoughtlens.tracing.latent_graph.trials import ANSWER, Found, Way

MOST_ALIKE = 0.5
"""Share of other problems with the same answer, from which on a cut tells little."""

DEFINITIONS = {
    "effect": "share of what the target has (a latent's activation; of the answer, how far the logit of "
    "its first token, about the mean, is above that of other problems) that goes when the source is taken "
    "away and comes straight on this route, all other cells held as they were; less the mean of changes as "
    "long in random directions. A latent is set to 0 with the SAE's residual kept, an error is set to 0, a "
    "word gets the keys and values that other problems have at its place, mean",
    "attribution": "100 times what goes with a hundredth of that change: the slope of the whole run, "
    "attention and norms not frozen",
    "interval": "least and largest effect over this problem and those of its twins in which the source is "
    "there (`n` of them all); the effect itself is exact",
    "q": "Benjamini and Hochberg's over all edges that were tried; p by Student's t: the effect as one "
    "further draw of the random directions'",
    "flow": "share of what reaches the answer: what comes into a node shared out among the edges into it "
    "by the size of their effects, of those not tried by their slope",
    "shown": "q and flow within the limits asked for, on a way to the answer whose edges are all shown",
    "share": "share of the answer's change (see effect) that goes when the node alone is taken away and "
    "all that follows may follow",
    "share_shown": "share of the way from another problem's logit to the own one that is kept when the "
    "shown nodes alone carry the own values, mean over other problems of equal length",
    "share_error": "1 less the same of all latents and words: what errors and places without an SAE carry",
    "cut, keep": "nodes that are cut carry the value of another problem of equal length; value: share of "
    "these problems with which the answer stays",
}


def plan(cfg: GraphConfig) -> Plan:
    """Runs of the model, memory and time; zeros where the store does not exist yet."""
    if StoreSize.of(cfg.acts) is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    rows = 20 * cfg.budget * (cfg.n_random + 8)
    return Plan(rows=rows, memory_bytes=1e9, disk_bytes=1e6, seconds=2 + rows * 1e-5)


def graph(cfg: GraphConfig, out: str | Path) -> Result:
    """Make the graph of one problem; `edges.parquet` holds every edge that was tried, `viewers` the graph as
    circuit-tracer and Neuronpedia read it.

    Raises:
        NotThereError: no such problem.
        MismatchError: other weights than those that made the store, or SAEs of another model.
        StoreError: a store of texts.
        DataError: a model without thoughts, or a question that the model cannot read.
        HookError: a model that does not give out what it remembers, or no SAE that is read.
    """
    inputs = {"acts": Path(cfg.acts), "sae": Path(cfg.sae)}
    if cfg.explain is not None:
        inputs["explain"] = Path(cfg.explain)
    return run_stage("graph", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


@torch.no_grad()
def _work(cfg: GraphConfig, tmp: Path) -> GraphOutcome:
    store = ActivationStore.open(cfg.acts)
    if store.meta.kind == "text":
        raise StoreError(f"{store.root} holds texts and no problems: a graph of a text is made with --text")
    if "question" not in store.problems.column_names:
        raise DataError(f"graph: {store.root} keeps no questions; extract it from problems")
    model = thought_model(store)
    if not model.spec.n_thoughts:
        raise DataError("graph: this model has no thoughts, so no thought makes another")
    own = Subject(cfg, store, model, covered(model, cfg.sae, cfg.member))
    slopes = own.trials.slopes()
    flows = through(slopes, own.backwards)
    ways = sorted(flows, key=lambda way: -flows[way])[: cfg.budget]
    found = own.trials.tried(ways, cfg.n_random, cfg.seed)
    edges = _edges(own, slopes, found)
    write_rows(tmp / "edges.parquet", GraphEdge, edges)
    outcome = _outcome(own, edges, len(flows))
    write_for_viewers(outcome, tmp / "viewers")
    return outcome


def _edges(own: Subject, slopes: Mapping[Way, float], found: Mapping[Way, Found]) -> list[GraphEdge]:
    """All that were tried, those through which most flows first."""
    flows = through({**slopes, **{way: one.effect for way, one in found.items()}}, own.backwards)
    ways = [*found]
    q = scipy.stats.false_discovery_control([found[way].p for way in ways]) if ways else []
    stands = {
        way: float(value)
        for way, value in zip(ways, q, strict=True)
        if value <= own.cfg.q and flows.get(way, 0.0) >= own.cfg.least
    }
    shown, reaches = set[Way](), {ANSWER}
    for node in own.backwards:
        into = {way for way in stands if way.target == node} if node in reaches else set()
        shown |= into
        reaches |= {way.source for way in into}
    rows = [
        GraphEdge(
            **way._asdict(),
            attribution=slopes[way],
            effect=one.effect,
            low=min([one.effect, *one.over]) if own.twins else None,
            high=max([one.effect, *one.over]) if own.twins else None,
            at_random=one.at_random,
            spread=one.spread,
            p=one.p,
            q=float(value),
            flow=flows.get(way, 0.0),
            shown=way in shown,
            n=1 + len(one.over),
        )
        for (way, one), value in zip(found.items(), q, strict=True)
    ]
    return sorted(rows, key=lambda row: (-(row.flow or 0.0), row.source, row.target, row.route))


def _outcome(own: Subject, edges: Sequence[GraphEdge], n_candidates: int) -> GraphOutcome:
    cfg, store, shares = own.cfg, own.store, own.trials.shares()
    shown = [edge for edge in edges if edge.shown]
    named = {name for edge in shown for name in (edge.source, edge.target)} | {ANSWER}
    test = tested(own, edges)
    foretold, measured = (
        np.array([getattr(edge, name) for edge in edges]) for name in ("attribution", "effect")
    )
    ranked = correlation(foretold, measured)
    return GraphOutcome(
        name=name_of("problem", cfg.problem),
        model=store.meta.model,
        text=own.question,
        answer=own.nodes[ANSWER].text,
        columns=own.columns,
        rows=own.rows,
        nodes=[
            replace(node, share=shares.get(node.id))
            for node in own.nodes.values()
            if node.id in named or node.kind == "token"
        ],
        edges=shown,
        n_tried=len(edges),
        rank_correlation=ranked,
        slope=float(foretold @ measured / (foretold @ foretold)) if foretold.any() else None,
        share_shown=test.share_shown,
        share_error=test.share_error,
        cuts=test.cuts,
        problem_id=own.told("problem_id"),
        split=own.told("split"),
        model_digest=store.meta.model_digest,
        members=list(dict.fromkeys(cell.member for cell in own.cover.cells)),
        n_candidates=n_candidates,
        budget=cfg.budget,
        n_random=cfg.n_random,
        twins=own.twins,
        n_others=len(own.others),
        n_donors=test.n_donors,
        headline={
            "n_shown": Number(value=len(shown), n=len(edges)),
            "rank_correlation": Number(value=ranked, n=len(edges)),
            **{
                f"answers_{cut.name.replace(' ', '_')}": Number(value=cut.value, n=test.n_donors)
                for cut in test.cuts
            },
        },
        definitions=DEFINITIONS,
        warnings=[
            *_doubts(own, len(edges), n_candidates, test),
            *carried(len(shown), test.share_shown, test.share_error),
        ],
    )


def _doubts(own: Subject, n_tried: int, n_candidates: int, test: Tested) -> list[str]:
    notes = [] if (missing := own.cover.note()) is None else [missing]
    if n_candidates > n_tried:
        notes.append(
            f"{n_candidates:,} edges carry something, and the budget of {own.cfg.budget:,} was tried, those "
            f"through which most would flow by the slope; try more with budget={n_candidates} and another "
            f"--out"
        )
    if not own.twins:
        notes.append("no twins of this problem can be made: effects have no range")
    if own.above < 0:
        notes.append(
            "the answer's logit is lower than in other problems: its shares are of what they have more"
        )
    if not test.n_donors:
        notes.append("no other problem has as many tokens: the graph was not put to the test")
    if test.alike >= MOST_ALIKE:
        notes.append(
            f"{test.alike:.0%} of the {test.n_donors} other problems whose values are put in have the same "
            f"answer: that it stays with them says little"
        )
    if control := own.model.spec.control:
        notes.append(f"these are no thoughts: {control}")
    return notes
