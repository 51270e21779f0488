"""The stage's numbers over all latents, and what it did in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.numerics.stats.intervals import bootstrap_mean


def means(table: pa.Table, seed: int) -> list[dict[str, Any]]:
    """Mean scores over the latents, by method, and of the explanations shown."""
    rows = []
    for method in dict.fromkeys(table["method"].to_pylist()):
        rows.append({"method": method, **_mean(table.filter(pc.field("method") == method), seed)})
    if len(table):
        rows.append({"method": "chosen", **_mean(table.filter(table["chosen"]), seed)})
    return rows


def headline(table: pa.Table, summaries: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """How well the shown explanations do, against the token lookup and random twins."""
    counts: dict[str, Any] = {"n_explained": sum(s["n_explained"] for s in summaries)}
    counts |= {"n_eligible": sum(s["n_eligible"] for s in summaries)}
    shown = table.filter(table["chosen"])
    if not len(shown):
        return counts
    found = {}
    for name in ("auprc", "token_auprc", "random_auprc", "base_rate"):
        values = np.array(shown[name].to_pylist(), float)
        found[name] = _interval(values, seed) | {"n": len(values), "split": shown["split"][0].as_py()}
    return found | counts


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
    return (
        f"explained: {latents}; shown first (chosen): the method with the best average precision on the "
        f"validation problems, the shortest text among those within 0.01 of it"
    )


def _mean(table: pa.Table, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {"n_latents": len(table)}
    for name in ("auprc", "precision_at_half_recall", "token_auprc", "random_auprc", "base_rate"):
        values = np.array(table[name].to_pylist(), float)
        row[name] = float(values.mean())
    own = _interval(np.array(table["auprc"].to_pylist(), float), seed)
    above = table.filter(pc.field("auprc_low") > pc.field("random_auprc"))
    return row | {
        "auprc_low": own["low"],
        "auprc_high": own["high"],
        "n_above_random": len(above),
    }


def _interval(values: Float[np.ndarray, " n"], seed: int) -> dict[str, Any]:
    """Mean over latents with its bootstrap interval; none for a single latent."""
    if len(values) < 2:
        return {"value": float(values.mean()), "low": None, "high": None}
    found = bootstrap_mean(values, seed=seed)
    return {"value": found.estimate, "low": found.low, "high": found.high}
