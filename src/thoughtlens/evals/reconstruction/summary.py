"""From tallies to the tables and numbers that people read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from thoughtlens.evals.reconstruction.measure import Tally
from thoughtlens.evals.reconstruction.subject import Subject
from thoughtlens.numerics.metrics.reconstruction import ExplainedVariance
from thoughtlens.numerics.stats.intervals import Interval, bootstrap_ratio
from thoughtlens.numerics.stats.verdicts import verdict

DELTA_EV = 0.01
"""Differences of explained variance below this count as equivalent."""


def table(subject: Subject, tallies: dict[str, Tally], widths: dict[str, int]) -> list[dict[str, Any]]:
    """Rows of `reconstruction.parquet`."""
    rows = []
    for name, tally in tallies.items():
        every: list[tuple[str | None, int | None, list[int] | None]] = [(None, None, None)]
        if len(subject.cells) > 1:
            every += [(hook, thought, [i]) for i, (hook, thought) in enumerate(subject.cells)]
        for hook, thought, cells in every:
            for flagged in (False, True) if subject.drops_outliers else (False,):
                where = {"hook_name": hook, "thought_idx": thought, "rows": "all" if flagged else "kept"}
                values = tally.row(cells, flagged=flagged)
                rows.append({"reconstructor": name, **where, "d_sae": widths[name], **values})
    return rows


def explained(tally: Tally, seed: int) -> Interval | None:
    """Explained variance with its interval over problems; None with fewer than two, or no variance."""
    here = tally.rows > 0
    if here.sum() < 2 or tally.spread.sum() <= 0:
        return None
    return bootstrap_ratio(tally.spread[here] - tally.error[here], tally.spread[here], seed=seed)


def limits(interval: Interval | None) -> dict[str, float | None]:
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return {"explained_variance_low": low, "explained_variance_high": high}


def compare(mine: Tally, other: Tally, name: str, seed: int) -> dict[str, Any]:
    """The SAE's explained variance minus a baseline's, on the same rows."""
    here = mine.rows > 0
    found: dict[str, Any] = {
        "baseline": name,
        "metric": ExplainedVariance.name,
        "n_problems": int(here.sum()),
    }
    if here.sum() < 2 or mine.spread.sum() <= 0:
        return found | {"difference": None, "low": None, "high": None, "verdict": "inconclusive"}
    difference = bootstrap_ratio(other.error[here] - mine.error[here], mine.spread[here], seed=seed)
    return found | {
        "difference": difference.estimate,
        "low": difference.low,
        "high": difference.high,
        "verdict": verdict(difference.low, difference.high, delta=DELTA_EV),
    }


Ends = tuple[list[float | None], list[float | None]]


def headline(summaries: list[dict[str, Any]], split: str) -> dict[str, Any]:
    """The numbers to look at first; means over the members where there are several.

    Bounds of a mean are the means of the members' bounds: at least as wide as its own would be, however the
    members' errors go together.
    """
    numbers: dict[str, Any] = {}

    def put(
        name: str, values: list[Any], n: int, ends: Ends | None = None, verdict: str | None = None
    ) -> None:
        known = [v for v in values if v is not None]
        if known:
            bounds = dict(zip(("low", "high"), map(_mean, ends), strict=True)) if ends else {}
            said = {"verdict": verdict} if verdict is not None else {}
            numbers[name] = {"value": float(np.mean(known)), "n": n, "split": split, **bounds, **said}

    _answers(summaries, put)
    n = sum(s["n"] for s in summaries)
    mine = [s["reconstruction"]["sae"] for s in summaries]
    low, high = _ends(mine, "explained_variance_")
    put("fvu", [m["fvu"] for m in mine], n, ([_rest(v) for v in high], [_rest(v) for v in low]))
    put("explained_variance", [m["explained_variance"] for m in mine], n, (low, high))
    if any(len(s["hook_names"]) > 1 or s["thoughts"] for s in summaries):
        put("explained_variance_within", [m["explained_variance_within"] for m in mine], n)
    put("l0", [s["sparsity"]["l0"] for s in summaries], n)
    put("dead_share", [s["sparsity"]["dead_share"] for s in summaries], n)
    for name in ("pca_l0", "random"):
        others = [s["reconstruction"][name] for s in summaries if name in s["reconstruction"]]
        ends = _ends(others, "explained_variance_")
        put(f"explained_variance_{name}", [o["explained_variance"] for o in others], n, ends)
    spliced = [r for s in summaries for r in s["fidelity"] or [] if r["arm"] == "sae" and "delta_ce" in r]
    if spliced:
        tokens = sum(r["n"] for r in spliced)
        for name in ("delta_ce", "ce_loss_score_mean"):
            put(name, [r[name] for r in spliced], tokens, _ends(spliced, f"{name}_"))
    return numbers


def _ends(rows: list[dict[str, Any]], prefix: str = "") -> Ends:
    """Everybody's bounds of a number, below and above."""
    low, high = ([row[f"{prefix}{end}"] for row in rows] for end in ("low", "high"))
    return low, high


def _mean(bounds: list[float | None]) -> float | None:
    known = [v for v in bounds if v is not None]
    return float(np.mean(known)) if len(known) == len(bounds) else None


def _rest(value: float | None) -> float | None:
    return None if value is None else 1 - value


def whole(fidelity: list[dict[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """By arm, the row of a thought model with every place of one SAE replaced; empty for text."""
    return {row["arm"]: row for row in fidelity or [] if "scope" in row}  # the last is all places


def _answers(summaries: list[dict[str, Any]], put: Callable[..., None]) -> None:
    """Thoughts: what answers cost with everything replaced, first of all numbers."""
    found = [whole(s["fidelity"]) for s in summaries]
    mine = [rows["sae"] for rows in found if "sae" in rows]
    if not mine:
        return
    n = sum(row["n"] for row in mine)
    only = mine[0]["verdict"] if len(summaries) == 1 else None
    put("spliced_difference", [row["difference"] for row in mine], n, _ends(mine), only)
    put("spliced_kl", [row["kl"] for row in mine], n, _ends(mine, "kl_"))
    for arm in ("sae", "pca_l0", "random", "cell_mean", "mean"):
        name = "spliced_accuracy" if arm == "sae" else f"spliced_accuracy_{arm}"
        rows = [found_rows[arm] for found_rows in found if arm in found_rows]
        if rows:
            accuracy, n = [row["accuracy"] for row in rows], sum(row["n"] for row in rows)
            put(name, accuracy, n, _ends(rows, "accuracy_"))
