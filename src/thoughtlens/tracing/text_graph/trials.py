"""Which edges are worth a try, and what the intervention says of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.stats
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.tracing.graphs.trials import as_long, through
from thoughtlens.tracing.text_graph.runs import ALL, Spot, Text, passed

AT_ONCE = 16
"""Targets whose sources are looked for in one pass."""
TINY = 1e-12


class Way(NamedTuple):
    """An edge."""

    source: Spot
    target: Spot


@dataclass(frozen=True, eq=False)
class Taken:
    """What went with a source, as shares of what the targets have, in one text."""

    source: Spot
    own: Float[np.ndarray, " targets"]
    drawn: Float[np.ndarray, "random targets"]
    """Of changes as long in random directions."""
    whole: Float[np.ndarray, " targets"]
    """With nothing held."""
    on_answer: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """An edge that was tried; NaN: no interval, one text."""

    effect: float
    low: float | None
    high: float | None
    at_random: float
    spread: float
    p: float
    whole: float
    on_answer: float
    n: int


def answer_of(text: Text) -> Spot:
    """The node of the answer."""
    return Spot("answer", len(text.sites))


def proposals(texts: Sequence[Text], n_targets: int) -> dict[Spot, dict[Spot, float]]:
    """By target what the slope foretells of each source, mean over the texts that have the target.

    From the answer backwards: the nodes through which most would flow are looked at next.
    """
    merged, answer = len(texts) > 1, answer_of(texts[0])
    found = {answer: _into(texts, [answer], merged)[answer]}
    while len(found) < n_targets:
        passes = defaultdict[Spot, float](float)
        for way, flow in _flows(found).items():
            passes[way.source] += flow
        latents = [spot for spot in passes if spot.kind == "latent" and spot not in found and spot.site > 0]
        best = sorted(latents, key=lambda spot: (-passes[spot], spot))[: min(AT_ONCE, n_targets - len(found))]
        if not best:
            break
        found |= _into(texts, best, merged)
    return found


def best_ways(into: Mapping[Spot, Mapping[Spot, float]], budget: int) -> list[Way]:
    """The edges through which most would flow."""
    flows = _flows(into)
    return sorted((way for way in flows if flows[way] > 0), key=lambda way: (-flows[way], way))[:budget]


def _flows(into: Mapping[Spot, Mapping[Spot, float]]) -> dict[Way, float]:
    ways = {Way(source, target): value for target, own in into.items() for source, value in own.items()}
    return through(ways, sorted(into, key=lambda spot: -spot.site))


def _into(texts: Sequence[Text], targets: Sequence[Spot], merged: bool) -> dict[Spot, dict[Spot, float]]:
    sums: dict[Spot, dict[Spot, float]] = {target: {} for target in targets}
    counts = dict.fromkeys(targets, 0)
    for text in texts:
        there = [target for target in targets if _is_there(text, target)]
        if not there:
            continue
        slopes, has = text.slopes(there), text.has(there)
        for i, target in enumerate(there):
            counts[target] += 1
            own = text.foretold(target, [slope[i] for slope in slopes], merged)
            for source, value in own:
                share = value / (float(has[i]) or TINY)
                sums[target][source] = sums[target].get(source, 0.0) + share
    return {
        target: {source: value / counts[target] for source, value in sums[target].items() if value}
        for target in targets
    }


def _is_there(text: Text, spot: Spot) -> bool:
    return spot.kind != "latent" or len(text.positions(spot)) > 0


@torch.no_grad()
def taken(
    text: Text, ways: Sequence[Way], n_random: int, batch_tokens: int, seed: int
) -> Iterator[tuple[Taken, list[Spot]]]:
    """Each source taken away: straight effects, those of random changes, and what follows freely."""
    targets = list(dict.fromkeys(way.target for way in ways if _is_there(text, way.target)))
    answer = answer_of(text)
    asked = list(dict.fromkeys([*targets, answer]))
    has = text.has(asked)
    own, noise = text.readings(text.untouched, asked)[0], torch.Generator().manual_seed(seed)
    sources, each = list(dict.fromkeys(way.source for way in ways)), n_random + 1
    at_once = max(1, batch_tokens // (len(text.ids) * each))

    def lost(rows: Sequence[tuple[int, Tensor]], *, held: bool) -> Float[np.ndarray, "rows targets"]:
        step = max(1, batch_tokens // len(text.ids))
        runs = [text.run(rows[i : i + step], held=held) for i in range(0, len(rows), step)]
        return torch.cat([(own - text.readings(run, asked)) / has for run in runs]).double().numpy()

    for start in range(0, len(sources), at_once):
        some = sources[start : start + at_once]
        changes = [(source.site + 1, text.removal(source)) for source in some]
        rows = [
            (place, change if k == 0 else as_long(change, noise))
            for place, change in changes
            for k in range(each)
        ]
        straight, free = lost(rows, held=True), lost(changes, held=False)
        for k, source in enumerate(some):
            mine = straight[k * each : (k + 1) * each]
            yield Taken(source, mine[0], mine[1:], free[k], float(free[k, asked.index(answer)])), asked


def tried(
    texts: Sequence[Text], ways: Sequence[Way], n_random: int, batch_tokens: int, seed: int
) -> dict[Way, Found]:
    """What the interventions say of each edge, over the texts that have its target."""
    wanted, parts = {*ways}, dict[Way, list[tuple[float, np.ndarray, float, float]]]()
    for i, text in enumerate(texts):
        for one, asked in taken(text, ways, n_random, batch_tokens, seed + i):
            for j, target in enumerate(asked):
                if (way := Way(one.source, target)) in wanted:
                    parts.setdefault(way, []).append(
                        (float(one.own[j]), one.drawn[:, j], float(one.whole[j]), one.on_answer)
                    )
    return {way: _judged(parts[way]) for way in ways if way in parts}


def _judged(parts: Sequence[tuple[float, np.ndarray, float, float]]) -> Found:
    """Of one text whether the effect stands out from those of random directions, as one further draw of them;
    of several whether its mean over the texts differs from 0 (Student's t both times)."""
    own, drawn = np.array([part[0] for part in parts]), np.stack([part[1] for part in parts])
    gain, n = own - drawn.mean(1), len(parts)
    spread = float(drawn.std(ddof=1))
    low = high = None
    if n == 1:
        error, degrees = spread * (1 + 1 / drawn.shape[1]) ** 0.5, drawn.shape[1] - 1
    else:
        error, degrees = float(gain.std(ddof=1)) / n**0.5, n - 1
        reach = float(scipy.stats.t.ppf(0.975, degrees)) * error
        low, high = float(gain.mean()) - reach, float(gain.mean()) + reach
    score = abs(float(gain.mean())) / max(error, TINY)
    return Found(
        effect=float(gain.mean()),
        low=low,
        high=high,
        at_random=float(drawn.mean()),
        spread=spread,
        p=float(2 * scipy.stats.t.sf(score, degrees)),
        whole=float(np.mean([part[2] for part in parts])),
        on_answer=float(np.mean([part[3] for part in parts])),
        n=n,
    )


@torch.no_grad()
def probability_with(text: Text, latents: set[Spot], *, kept: bool, errors: bool = True) -> float:
    """Probability of the answer when latents are set to 0, and what follows follows freely.

    Args:
        text: The text.
        latents: Which.
        kept: Whether it is all but these that are set to 0.
        errors: Whether what the dictionaries leave unexplained stays.
    """
    read: dict[int, Tensor] = {}

    def write(place: int, y: Tensor) -> Tensor:
        if place == 0:
            return y
        i, known = place - 1, text.known[:, None]
        site, x = text.sites[i], read[i][0]
        acts = torch.where(known, site.freely(x, text.acts[i]), 0)
        named = torch.zeros_like(acts, dtype=torch.bool)
        for spot in latents:
            if spot.site == i:
                named[slice(None) if spot.position == ALL else spot.position, spot.latent] = True
        shown = site.decode(torch.where(named == kept, acts, 0), x)
        return y + shown - site.decode(acts, x) if errors else torch.where(known, shown, y)

    run = passed(text.lm, text.sites, text.ids[None], write, read)
    return float(run.logits[0].softmax(-1)[text.target])
