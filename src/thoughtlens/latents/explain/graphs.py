"""Token graphs of a batch of latents: which examples to take apart, and with which masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.corpus import Part
from thoughtlens.latents.explain.lookup import profile
from thoughtlens.latents.explain.patterns import TokenGraph
from thoughtlens.latents.explain.token_graph import Example, Limits, Probe, find_patterns
from thoughtlens.latents.explain.tokens import Neighbours

MASK_CANDIDATES = 50
"""Most frequent tokens among which the masks of a latent are."""


def token_graphs(
    part: Part,
    acts: Mapping[int, Float[np.ndarray, " n"]],
    bind: Callable[[Sequence[Example]], Probe],
    neighbours: Neighbours,
    cfg: ExplainConfig,
) -> dict[int, TokenGraph]:
    """A graph for each latent, all of them taken apart together.

    Args:
        part: The fitting problems.
        acts: Activations of each latent on them.
        bind: Gives the probe that answers for some examples; `ModelProbe.bound` runs a model.
        neighbours: Where substitutes come from.
        cfg: Numbers of examples, context and thresholds.
    """
    examples: list[Example] = []
    for latent, own in acts.items():
        examples += examples_of(part, own, latent, cfg.graph_examples, cfg.graph_context)
    whole = part.where is None
    longest = int(np.bincount(part.tokens.stretch).max())
    limits = Limits(context=longest if whole else cfg.graph_context, importance=cfg.importance, whole=whole)
    found = find_patterns(
        examples, bind(examples), lambda token: neighbours.of(token, cfg.graph_substitutes), limits
    )
    graphs = {}
    for latent, own in acts.items():
        patterns = [p for e, ps in zip(examples, found, strict=True) if e.latent == latent for p in ps]
        graphs[latent] = TokenGraph.fit(patterns, part, own, profile(part, own))
    return graphs


def examples_of(
    part: Part, acts: Float[np.ndarray, " n"], latent: int, n: int, context: int
) -> list[Example]:
    """Examples that differ: the strongest one of each of the latent's main tokens first.

    A latent that fires on several tokens would otherwise show only the one on which it fires most strongly.
    Of thoughts, the strongest example of each problem, half of them the strongest overall, the others spread
    evenly over the rest.
    """
    fires = np.flatnonzero(acts)
    fires = fires[np.lexsort((fires, -acts[fires]))]
    spread_out = part.where is None
    chosen = _spread_over_problems(part, fires, n) if spread_out else _by_token(part, acts, fires, n)
    masks = _masks(part, acts, context)
    found = []
    for v in chosen.tolist():
        if part.where is None:
            tokens = part.tokens.ids[part.tokens.stretch == part.unit[v]]
        else:
            tokens = part.tokens.context(int(part.where[v]), context)
        found.append(Example(latent, tokens, float(acts[v]), masks, int(part.cell[v])))
    return found


def _by_token(
    part: Part, acts: np.ndarray, fires: Int[np.ndarray, " fires"], n: int
) -> Int[np.ndarray, " n"]:
    """Round after round, the next strongest fire on each token, the tokens by what they sum up to."""
    assert part.where is not None
    kinds, code = np.unique(part.tokens.ids[part.where[fires]], return_inverse=True)
    weight = np.bincount(code, acts[fires])
    rank_of_kind = np.empty(len(kinds), np.int64)
    rank_of_kind[np.lexsort((kinds, -weight))] = np.arange(len(kinds))
    by_kind = np.argsort(code, kind="stable")  # `fires` is sorted by strength already
    start = np.searchsorted(code[by_kind], np.arange(len(kinds)))
    turn = np.empty(len(fires), np.int64)
    turn[by_kind] = np.arange(len(fires)) - start[code[by_kind]]
    return fires[np.lexsort((rank_of_kind[code], turn))[:n]]


def _spread_over_problems(part: Part, fires: Int[np.ndarray, " fires"], n: int) -> Int[np.ndarray, " n"]:
    first = np.sort(np.unique(part.unit[fires], return_index=True)[1])
    one_each = fires[first]
    if len(one_each) <= n:
        return one_each
    strongest = (n + 1) // 2
    rest = np.linspace(strongest, len(one_each) - 1, n - strongest).astype(int)
    return one_each[np.r_[np.arange(strongest), rest]]


def _masks(part: Part, acts: Float[np.ndarray, " n"], reach: int) -> tuple[int, int]:
    """Two frequent tokens from which to `reach` tokens on (in whose problems) the latent is most silent."""
    tokens = part.tokens
    frequent = tokens.counts()[0][:MASK_CANDIDATES]
    fires = part.at_tokens(acts) != 0
    if part.where is not None:
        total = np.r_[0, np.cumsum(fires)]
        here = np.arange(len(tokens))
        fires = total[np.minimum(here + reach, tokens.end)] > total[here]
    share = [float(fires[tokens.positions([t])].mean()) for t in frequent.tolist()]
    best = np.argsort(share, kind="stable")[:2].tolist()
    return int(frequent[best[0]]), int(frequent[best[-1]])
