"""The textgraph stage: of a text, which latent makes which, every edge tried by an intervention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from thoughtlens.acts import ActivationStore, StoreSize, cutter_of, language_model, made_with, says_how
from thoughtlens.core import (
    ConfigError,
    DataError,
    MismatchError,
    NotThereError,
    Number,
    Plan,
    Result,
    StoreError,
    run_stage,
    write_rows,
)
from thoughtlens.latents import UNKNOWN, chosen, token_texts
from thoughtlens.models import LanguageModel, ModelConfig
from thoughtlens.problems import token_ids
from thoughtlens.sae import SAE, differences, load_members, of_another_model
from thoughtlens.tracing.graphs.records import GraphCut, GraphEdge, GraphNode, carried, name_of
from thoughtlens.tracing.graphs.trials import correlation
from thoughtlens.tracing.graphs.viewers import write_for_viewers
from thoughtlens.tracing.text_graph.config import TextgraphConfig
from thoughtlens.tracing.text_graph.records import TextgraphOutcome, TriedRow
from thoughtlens.tracing.text_graph.runs import ALL, Spot, Text, in_order, require_floats
from thoughtlens.tracing.text_graph.sites import Site, sites_of, uncovered
from thoughtlens.tracing.text_graph.trials import (
    Found,
    Way,
    answer_of,
    best_ways,
    probability_with,
    proposals,
    tried,
)

BEST = 10
"""Latents that are set to 0, the best ones and as many others."""
FEW_TEXTS = 5
UNLIKELY = 0.01
"""Probability below which an answer is said to be hardly given."""

DEFINITIONS = {
    "effect": "share of what the target has (a latent's pre-activation; of the answer, its logit above "
    "the mean of all logits) that goes when the source is taken away and the model runs on, every other "
    "dictionary's hook held as it was, so that it comes straight; less the mean of changes as long in "
    "random directions. A latent is set to 0 with the residual kept, an error is set to 0, a word becomes "
    "the mean of all words",
    "attribution": "the same by the slope, with attention patterns and the scales of norms frozen",
    "whole": "effect with nothing held, so that all that follows may follow; no random change taken off",
    "on_answer": "share of the answer's logit that goes with the source then",
    "interval": "of several texts, 95 %, Student's t over texts; of one text the effect is exact",
    "q": "Benjamini and Hochberg's over all edges that were tried; p by Student's t: of one text, the "
    "effect as one further draw of the random directions'; of several, its mean over texts against 0",
    "flow": "share of the answer that goes through the edge: what the source takes from the target "
    "(effect + at_random) times the sum of the flows that leave the target",
    "share": "sum of the flows of shown edges that leave the node",
    "shown": "q within the limit asked for, and the flow, of either sign, not below `least`",
    "share_shown": "sum of the flows of shown edges into the answer from latents and words",
    "share_error": "the same from errors",
    "share_bare": "share of the answer that goes when the blocks in which no dictionary stands pass on what "
    "comes in, every dictionary's hook held as it was",
    "cut": "the latents are set to 0, the residuals kept, and the model runs on freely; value: the "
    "answer's probability as a share of what it was, of several texts the mean",
    "cut matched": "as many active latents that are not shown, each the one that writes most nearly as much",
}


def plan(cfg: TextgraphConfig) -> Plan:
    """Runs of the model, memory and time; zeros where the store does not exist yet."""
    if StoreSize.of(cfg.acts) is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    runs = min(cfg.budget, 100) * (cfg.n_random + 2)
    return Plan(rows=runs, memory_bytes=2e9, disk_bytes=1e6, seconds=5 + runs * 5e-3)


def textgraph(cfg: TextgraphConfig, out: str | Path) -> Result:
    """Make the graph of a text, or of several; `edges.parquet` holds every edge that was tried, `viewers` the
    graph as circuit-tracer and Neuronpedia read it.

    Raises:
        ConfigError: not exactly one of `text` and `texts`.
        MismatchError: other weights than those that made the store, dictionaries of another model, or on one
            hook alone.
        StoreError: a store of thoughts.
        DataError: a text without words, or longer than the model reads.
        HookError: a hook that the model does not have.
    """
    inputs = {"acts": Path(cfg.acts), "sae": Path(cfg.sae)}
    inputs |= {name: path for name in ("explain", "texts") if (path := getattr(cfg, name)) is not None}
    return run_stage("textgraph", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


@dataclass(frozen=True, eq=False)
class _Subject:
    """The texts, the model that reads them, and the dictionaries that stand in it."""

    cfg: TextgraphConfig
    store: ActivationStore
    lm: LanguageModel
    members: Mapping[str, SAE]
    given: Sequence[str]

    @classmethod
    def of(cls, cfg: TextgraphConfig) -> _Subject:
        """Everything opened, and seen to belong together."""
        given, store = _texts(cfg), ActivationStore.open(cfg.acts)
        if store.meta.kind != "text":
            raise StoreError(
                f"{store.root} holds thoughts: a graph of one of its problems is made with --problem"
            )
        if not says_how(store):
            raise StoreError(f"{store.root} does not say how its texts were cut; extract it again")
        found = made_with(store).model
        lm = language_model(store, ModelConfig(name=found.name, dtype="float32", revision=found.revision))
        lm.model.set_attn_implementation("eager")
        return cls(cfg, store, lm, _members(cfg, store), given)

    @cached_property
    def read(self) -> list[torch.Tensor]:
        """The tokens of each text."""
        cutter = cutter_of(self.lm, made_with(self.store))
        found = token_ids(self.lm.tokenizer, self.given, cutter.bos)
        for text, ids in zip(self.given, found, strict=True):
            windows = cutter.windows("0", ids)
            if not cutter.kept(ids).any():
                raise DataError(f"Expected a text with at least one token, got {text!r}")
            if len(windows) > 1:
                raise DataError(
                    f"{text[:40]!r}.. has {len(ids):,} tokens, and {self.store.root} reads "
                    f"{cutter.context_length} at a time: shorten it"
                )
        return [torch.from_numpy(cutter.windows("0", ids)[0].tokens).long() for ids in found]

    @cached_property
    def sites(self) -> list[Site]:
        """In the order in which the model writes there."""
        return in_order(self.lm, sites_of(self.members), self.read[0][None])

    @cached_property
    def target(self) -> int | None:
        """The token asked for."""
        if self.cfg.target is None:
            return None
        ids = self.lm.tokenizer(self.cfg.target, add_special_tokens=False)["input_ids"]
        if not ids:
            raise DataError(f"target: expected a token, got {self.cfg.target!r}")
        return int(ids[0])

    @cached_property
    def texts(self) -> list[Text]:
        """As the model reads them."""
        cutter = cutter_of(self.lm, made_with(self.store))
        found = []
        for ids in self.read:
            known = torch.from_numpy(cutter.kept(ids.numpy()))
            found.append(Text.of(self.lm, self.sites, ids, known, self.target))
            require_floats(found[-1])
        return found

    @cached_property
    def bare(self) -> list[int]:
        """Blocks in which no dictionary stands."""
        return uncovered(self.sites, int(self.lm.model.config.get_text_config().num_hidden_layers))

    @property
    def single(self) -> bool:
        """Whether it is one text, whose words are nodes."""
        return len(self.given) == 1

    @cached_property
    def said(self) -> dict[str, dict[int, str]]:
        """By member what its latents stand for; of the run's own alone."""
        run = None if self.cfg.explain is None else Path(self.cfg.explain).parent
        if run is None or run / "sae" != Path(self.cfg.sae):
            return {}
        return {
            name: {latent: row.text for latent, row in chosen(run, name).items() if row.text != UNKNOWN}
            for name in self.members
        }


def _texts(cfg: TextgraphConfig) -> list[str]:
    if (cfg.text is None) == (cfg.texts is None):
        raise ConfigError(
            "textgraph: expected a text (text), or a file of texts (texts); exactly one of them"
        )
    if cfg.texts is None:
        return [cfg.text or ""]
    try:
        lines = [line for line in cfg.texts.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{cfg.texts} is not text in UTF-8") from None
    except OSError:
        raise NotThereError(f"Expected a text file at {cfg.texts}, found none") from None
    if not lines:
        raise DataError(f"{cfg.texts} holds no text")
    return lines


def _members(cfg: TextgraphConfig, store: ActivationStore) -> dict[str, SAE]:
    only = None if cfg.member is None else [cfg.member]
    members = load_members(cfg.sae, joined=True, hooks=store.meta.d_in, only=only)
    for name, sae in members.items():
        if other := of_another_model(sae, store):
            raise MismatchError(f"{cfg.sae}: {name} was {other}")
    return members


@torch.no_grad()
def _work(cfg: TextgraphConfig, tmp: Path) -> TextgraphOutcome:
    own = _Subject.of(cfg)
    into = proposals(own.texts, cfg.n_targets)
    ways = best_ways(into, cfg.budget)
    found = tried(own.texts, ways, cfg.n_random, cfg.batch_tokens, cfg.seed)
    names = _Names(own)
    rows = _rows(own, into, found, names)
    write_rows(tmp / "edges.parquet", TriedRow, rows)
    outcome = _outcome(own, rows, names, sum(map(len, into.values())))
    write_for_viewers(outcome, tmp / "viewers")
    return outcome


class _Names:
    """Names of nodes."""

    def __init__(self, own: _Subject) -> None:
        self.own, self.spots = own, dict[str, Spot]()

    def __call__(self, spot: Spot) -> str:
        place = "" if spot.position == ALL else f" at {spot.position}"
        hook = "" if spot.kind in ("token", "answer") else f"{self.own.sites[spot.site].writes} "
        what = f"latent {spot.latent}" if spot.kind == "latent" else spot.kind
        name = f"{hook}{what}{place}"
        self.spots[name] = spot
        return name


def _rows(
    own: _Subject, into: Mapping[Spot, Mapping[Spot, float]], found: Mapping[Way, Found], name: _Names
) -> list[TriedRow]:
    """All that were tried, with what flows through each to the answer, from the answer backwards."""
    ways = sorted(found, key=lambda way: -way.target.site)
    q = scipy.stats.false_discovery_control([found[way].p for way in ways]) if ways else []
    leaves: dict[Spot, float] = {answer_of(own.texts[0]): 1.0}
    rows = []
    for way, value in zip(ways, q, strict=True):
        one = found[way]
        flow = (one.effect + one.at_random) * leaves.get(way.target, 0.0)
        shown = bool(value <= own.cfg.q and abs(flow) >= max(own.cfg.least, 1e-12))
        if shown:
            leaves[way.source] = leaves.get(way.source, 0.0) + flow
        rows.append(
            TriedRow(
                source=name(way.source),
                target=name(way.target),
                attribution=into[way.target][way.source],
                q=float(value),
                flow=flow,
                shown=shown,
                **vars(one),
            )
        )
    return sorted(rows, key=lambda row: (-abs(row.flow), row.source, row.target))


def _outcome(own: _Subject, rows: Sequence[TriedRow], name: _Names, n_candidates: int) -> TextgraphOutcome:
    shown = [row for row in rows if row.shown]
    answer = name(answer_of(own.texts[0]))
    share: dict[str, float] = {answer: 1.0}
    for row in shown:
        share[row.source] = share.get(row.source, 0.0) + row.flow
    into_answer = [(row.flow, name.spots[row.source].kind) for row in shown if row.target == answer]
    from_errors = sum((flow for flow, kind in into_answer if kind == "error"), 0.0)
    from_shown = sum((flow for flow, kind in into_answer if kind != "error"), 0.0)
    bare = float(np.mean([text.skipped(own.bare) for text in own.texts])) if own.bare else 0.0
    words = [Spot("token", -1, p) for p in range(len(own.read[0]))] if own.single else []
    spots = dict.fromkeys([*words, *(name.spots[one] for one in share)])
    foretold, measured = (np.array([getattr(row, key) for row in rows]) for key in ("attribution", "effect"))
    ranked = correlation(foretold, measured)
    cuts = _cuts(own, [name.spots[one] for one in sorted(share, key=lambda one: -abs(share[one]))])
    text = own.given[0] if own.single else f"{len(own.given)} texts"
    return TextgraphOutcome(
        name=name_of("text", *_asked(own.cfg)),
        model=own.store.meta.model,
        text=text,
        answer=_answer(own),
        columns=_columns(own),
        rows=[site.writes for site in own.sites],
        nodes=[replace(_node(own, spot, name), share=share.get(name(spot))) for spot in spots],
        edges=[_edge(own, row, name) for row in shown],
        n_tried=len(rows),
        rank_correlation=ranked,
        slope=float(foretold @ measured / (foretold @ foretold)) if foretold.any() else None,
        share_shown=from_shown,
        share_error=from_errors,
        cuts=cuts,
        model_digest=own.store.meta.model_digest,
        texts=list(own.given),
        members=list(dict.fromkeys(site.member for site in own.sites)),
        reads=[site.reads for site in own.sites],
        share_bare=bare,
        n_candidates=n_candidates,
        budget=own.cfg.budget,
        n_random=own.cfg.n_random,
        n_targets=own.cfg.n_targets,
        headline={
            "n_shown": Number(value=len(shown), n=len(rows)),
            "rank_correlation": Number(value=ranked, n=len(rows)),
            "share_shown": Number(value=from_shown, n=len(own.texts)),
            "share_error": Number(value=from_errors, n=len(own.texts)),
        },
        definitions=DEFINITIONS,
        warnings=[
            *_doubts(own, bare, len(rows), n_candidates),
            *carried(len(shown), from_shown, from_errors),
        ],
    )


def _edge(own: _Subject, row: TriedRow, name: _Names) -> GraphEdge:
    kept = {key: value for key, value in vars(row).items() if key not in ("whole", "on_answer")}
    spot = name.spots[row.source]
    route = "embed:out" if spot.site < 0 else own.sites[spot.site].writes
    return GraphEdge(route=route, **kept)


def _columns(own: _Subject) -> list[str]:
    words = list(_tokens(own, own.texts[0].ids.tolist())) if own.single else ["text", "wherever it fires"]
    return [*words, _answer(own)]


def _tokens(own: _Subject, ids: Sequence[int]) -> list[str]:
    texts = token_texts(own.lm.tokenizer, ids)
    return [texts[i] for i in ids]


def _answer(own: _Subject) -> str:
    found = _tokens(own, [text.target for text in own.texts])
    return found[0] if len({*found}) == 1 else "each text's likeliest token"


def _node(own: _Subject, spot: Spot, name: _Names) -> GraphNode:
    first, n = own.texts[0], len(_columns(own))
    if spot.kind == "answer":
        one = len({text.target for text in own.texts}) == 1
        return GraphNode(
            id=name(spot),
            kind="answer",
            column=n - 1,
            text=_answer(own),
            token_id=first.target if one else None,
            probability=float(np.mean([text.probability for text in own.texts])),
        )
    if spot.kind == "token":
        column = 0 if spot.position == ALL else spot.position
        return GraphNode(
            id=name(spot),
            kind="token",
            column=column,
            text=_columns(own)[column],
            token_id=None if spot.position == ALL else int(first.ids[column]),
        )
    site, column = own.sites[spot.site], 1 if spot.position == ALL else spot.position
    common = {"column": column, "row": spot.site, "hook_name": site.writes, "member": site.member}
    if spot.kind == "error":
        lengths = [float(text.errors[spot.site][text.positions(spot)].norm()) for text in own.texts]
        return GraphNode(id=name(spot), kind="error", activation=float(np.mean(lengths)), **common)
    acts = [float(text.acts[spot.site][text.positions(spot), spot.latent].sum()) for text in own.texts]
    return GraphNode(
        id=name(spot),
        kind="latent",
        latent=spot.latent,
        says=own.said.get(site.member, {}).get(spot.latent),
        activation=float(np.mean(acts)),
        **common,
    )


def _cuts(own: _Subject, spots: Sequence[Spot]) -> list[GraphCut]:
    """What is left of the answer's probability without the best latents, without as many others, with the
    shown ones alone, and without what the dictionaries leave unexplained."""
    shown = [spot for spot in spots if spot.kind == "latent"]
    best = shown[:BEST]
    others, n_active = _matched(own, best, {*shown})
    n_errors = len(own.sites) * int(sum(int(text.known.sum()) for text in own.texts) / len(own.texts))

    def left(latents: set[Spot], *, kept: bool = False, errors: bool = True) -> float:
        found = [(probability_with(text, latents, kept=kept, errors=errors), text) for text in own.texts]
        return float(np.mean([p / max(text.probability, 1e-30) for p, text in found]))

    return [
        GraphCut(name=name, about=about, n_cut=n, value=value)
        for name, about, n, value in (
            (
                "cut best",
                f"the {len(best)} shown latents through which most flows are set to 0",
                len(best),
                left({*best}),
            ),
            (
                "cut matched",
                f"{len(others)} latents that are not shown and write as much are set to 0",
                len(others),
                left(others),
            ),
            (
                "keep shown",
                f"all but the {len(shown)} shown latents are set to 0",
                n_active - len(shown),
                left({*shown}, kept=True),
            ),
            (
                "cut errors",
                "what the dictionaries leave unexplained is set to 0",
                n_errors,
                left(set(), errors=False),
            ),
        )
        if n
    ]


def _matched(own: _Subject, best: Sequence[Spot], shown: set[Spot]) -> tuple[set[Spot], int]:
    """For each of the best latents another active one of its place that writes most nearly as much; and how
    many are active in all."""
    active: set[Spot] = set()
    for text in own.texts:
        for i, acts in enumerate(text.acts):
            for position, latent in acts.nonzero().tolist():
                active.add(Spot("latent", i, position if own.single else ALL, latent))
    length: dict[Spot, float] = {}

    def written(spot: Spot) -> float:
        if spot not in length:
            length[spot] = float(np.mean([float(text.removal(spot).norm()) for text in own.texts]))
        return length[spot]

    found: set[Spot] = set()
    for spot in best:
        alike = [one for one in active - shown - found if one.site == spot.site]
        if alike:
            found.add(min(sorted(alike), key=lambda one: abs(written(one) - written(spot))))
    return found, len(active)


def _doubts(own: _Subject, bare: float, n_tried: int, n_candidates: int) -> list[str]:
    notes = list(differences(own.members, own.store))
    if own.bare:
        notes.append(
            f"no dictionary stands in block {', '.join(map(str, own.bare))}: what these blocks make is part "
            f"of the edges that cross them, and of what the next dictionary leaves as error; skipped, with "
            f"all dictionaries' hooks held, they take {bare:.0%} of the answer's logit with them"
        )
    if n_candidates > n_tried:
        notes.append(
            f"{n_tried:,} of {n_candidates:,} candidate edges were tried, those through which most would "
            f"flow by the slope; try more with budget={n_candidates} and another --out"
        )
    if own.cfg.target is not None:
        ids = own.lm.tokenizer(own.cfg.target, add_special_tokens=False)["input_ids"]
        if len(ids) > 1:
            notes.append(
                f"target {own.cfg.target!r} is {len(ids)} tokens: the answer is its first, {_answer(own)!r}"
            )
    if (probability := float(np.mean([text.probability for text in own.texts]))) < UNLIKELY:
        notes.append(
            f"{_answer(own)!r} is an answer that the model hardly gives (probability {probability:.1g}): "
            f"shares of its logit may be far from 0 to 100 %"
        )
    if 1 < len(own.given) < FEW_TEXTS:
        notes.append(f"{len(own.given)} texts are few for an interval over texts")
    if not all(bool(text.known.all()) for text in own.texts):
        notes.append(
            "at special tokens, and where a norm is an outlier, all of an activation counts as error"
        )
    return notes


def _asked(cfg: TextgraphConfig) -> tuple[str, ...]:
    """The text, or the file of texts, and the target if one is named."""
    return (cfg.text or str(cfg.texts), *(() if cfg.target is None else (cfg.target,)))
