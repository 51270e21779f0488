"""The stage's numbers over all latents, and what it did in words."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from thoughtlens.core import Number
from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.meanings import METHOD, WELL
from thoughtlens.latents.explain.records import (
    UNKNOWN,
    ExplainedMember,
    ExplanationRow,
    MeanScore,
    MethodScores,
)
from thoughtlens.numerics import bootstrap_mean, wilson


def means(rows: Sequence[ExplanationRow], seed: int) -> list[MethodScores]:
    """Mean scores over the latents, by method, and of the explanations shown."""
    groups: dict[str, list[ExplanationRow]] = {}
    for row in rows:
        groups.setdefault(row.method, []).append(row)
    if rows:
        groups["chosen"] = [row for row in rows if row.chosen]
    return [_mean(method, own, seed) for method, own in groups.items()]


def headline(
    rows: Sequence[ExplanationRow], members: Sequence[ExplainedMember], shown: str, seed: int
) -> dict[str, Number | int]:
    """How many latents of the SAE shown are explained, and how well the explanations of all SAEs do."""
    chosen = [row for row in rows if row.chosen]
    found: dict[str, Number | int] = {}
    for one in members:
        if one.member == shown and any(row.method == METHOD for row in rows):
            found |= meaning([row for row in chosen if row.member == shown], one)
    if chosen:
        for name in ("auprc", "token_auprc", "random_auprc", "base_rate"):
            if (score := _interval(chosen, name, seed)) is not None:
                found[name] = score
    found["n_explained"] = sum(m.n_explained for m in members)
    return found | {"n_eligible": sum(m.n_eligible for m in members)}


def choice(cfg: ExplainConfig) -> str:
    """Which latents were explained, and which explanation is shown, in words."""
    if cfg.latents is not None:
        latents = "the latents asked for"
    elif METHOD in cfg.methods:
        drawn = "all" if cfg.n_latents is None else f"a seeded draw of {cfg.n_latents}"
        latents = (
            f"by {METHOD} all latents that fire in enough problems, by the other methods {drawn} of each SAE "
            f"among those that {METHOD} leaves below {WELL} on the validation problems"
        )
    elif cfg.n_latents is None:
        latents = "all latents that fire in enough problems"
    else:
        latents = (
            f"a seeded draw of {cfg.n_latents} latents of each SAE among those that fire in enough problems"
        )
    if cfg.also:
        latents += f", and {len(cfg.also)} that were asked for"
    return (
        f"explained: {latents}; shown first (chosen): the method with the best average precision on the "
        f"validation problems, the shortest text among those within 0.01 of it"
    )


def meaning(rows: Sequence[ExplanationRow], of: ExplainedMember) -> dict[str, Number | int]:
    """Of one SAE, the shares of live latents and of firings while thinking that are explained, and unknown.

    Latents that fire too rarely to be explained have no row, and count as unknown.
    """
    split = of.parts["test"].split
    fires = np.array([row.n_fires_thinking or 0 for row in rows])
    marks = {
        "explained": np.array([row.auprc >= WELL for row in rows], bool),
        "unknown": np.array([row.text != UNKNOWN for row in rows], bool),
    }
    found: dict[str, Number | int] = {}
    for name, own in marks.items():
        latents, firings = int(own.sum()), int(fires[own].sum())
        if name == "unknown":
            latents, firings = of.n_live - latents, of.n_fires_thinking - firings
        found[f"{name}_latents"] = _share(latents, of.n_live, split)
        found[f"{name}_firings"] = Number(
            value=firings / max(of.n_fires_thinking, 1), n=of.n_fires_thinking, split=split
        )
    while_thinking = sum(row.auprc_thinking is not None and row.auprc_thinking >= WELL for row in rows)
    found["explained_latents_thinking"] = _share(while_thinking, of.n_live_thinking, split)
    return found | of.nulls | {"reused_codes": sum(map(reused, rows))}


def reused(row: ExplanationRow) -> bool:
    """Whether one of its clauses speaks for several quantities alike."""
    return any(clause["reused"] for clause in json.loads(row.clauses or "[]"))


def _share(hits: int, n: int, split: str) -> Number:
    if not n:
        return Number(value=None, n=0, split=split)
    return wilson(hits, n).number(split)


def _mean(method: str, rows: list[ExplanationRow], seed: int) -> MethodScores:
    own = _interval(rows, "auprc", seed)
    assert own is not None
    names = ("auprc", "precision_at_half_recall", "token_auprc", "random_auprc", "base_rate")
    means = {name: float(values.mean()) for name in names if len(values := _values(rows, name))}
    return MethodScores(
        method=method,
        n_latents=len(rows),
        **{"token_auprc": None, **means},
        auprc_low=own.low,
        auprc_high=own.high,
        n_above_random=sum(row.auprc_low > row.random_auprc for row in rows),
    )


def _values(rows: Sequence[ExplanationRow], name: str) -> np.ndarray:
    """The numbers of the rows that have one."""
    return np.array([value for row in rows if (value := getattr(row, name)) is not None], float)


def _interval(rows: Sequence[ExplanationRow], name: str, seed: int) -> MeanScore | None:
    """Mean over latents with its bootstrap interval; none for a single latent."""
    values, split = _values(rows, name), rows[0].split
    if len(values) < 2:
        return MeanScore(value=float(values[0]), n=1, split=split) if len(values) else None
    found = bootstrap_mean(values, seed=seed)
    return MeanScore(value=found.estimate, low=found.low, high=found.high, n=len(values), split=split)
