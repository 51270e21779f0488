"""The stage's numbers over all latents, and what it did in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.records import ExplainedMember, ExplanationRow, MeanScore, MethodScores
from thoughtlens.numerics import bootstrap_mean


def means(rows: Sequence[ExplanationRow], seed: int) -> list[MethodScores]:
    """Mean scores over the latents, by method, and of the explanations shown."""
    groups: dict[str, list[ExplanationRow]] = {}
    for row in rows:
        groups.setdefault(row.method, []).append(row)
    if rows:
        groups["chosen"] = [row for row in rows if row.chosen]
    return [_mean(method, own, seed) for method, own in groups.items()]


def headline(
    rows: Sequence[ExplanationRow], members: Sequence[ExplainedMember], seed: int
) -> dict[str, MeanScore | int]:
    """How well the shown explanations do, against the token lookup and random twins."""
    shown = [row for row in rows if row.chosen]
    found: dict[str, MeanScore | int] = {}
    if shown:
        for name in ("auprc", "token_auprc", "random_auprc", "base_rate"):
            found[name] = _interval(shown, name, seed)
    found["n_explained"] = sum(m.n_explained for m in members)
    return found | {"n_eligible": sum(m.n_eligible for m in members)}


def choice(cfg: ExplainConfig) -> str:
    """Which latents were explained, and which explanation is shown, in words."""
    if cfg.latents is not None:
        latents = "the latents asked for"
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


def _mean(method: str, rows: list[ExplanationRow], seed: int) -> MethodScores:
    own = _interval(rows, "auprc", seed)
    names = ("auprc", "precision_at_half_recall", "token_auprc", "random_auprc", "base_rate")
    return MethodScores(
        method=method,
        n_latents=len(rows),
        **{name: float(_values(rows, name).mean()) for name in names},
        auprc_low=own.low,
        auprc_high=own.high,
        n_above_random=sum(row.auprc_low > row.random_auprc for row in rows),
    )


def _values(rows: Sequence[ExplanationRow], name: str) -> np.ndarray:
    return np.array([getattr(row, name) for row in rows], float)


def _interval(rows: Sequence[ExplanationRow], name: str, seed: int) -> MeanScore:
    """Mean over latents with its bootstrap interval; none for a single latent."""
    values, n, split = _values(rows, name), len(rows), rows[0].split
    if n < 2:
        return MeanScore(value=float(values.mean()), n=n, split=split)
    found = bootstrap_mean(values, seed=seed)
    return MeanScore(value=found.estimate, low=found.low, high=found.high, n=n, split=split)
