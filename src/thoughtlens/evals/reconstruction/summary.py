"""From tallies to the tables and numbers that people read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from thoughtlens.core import Number, Record
from thoughtlens.evals.heldout.measure import Tally
from thoughtlens.evals.heldout.records import TextFidelity
from thoughtlens.evals.heldout.subject import Subject
from thoughtlens.evals.reconstruction.records import (
    AgainstBaseline,
    ReconstructionRow,
    Reconstructor,
    ThoughtFidelity,
    Validated,
)
from thoughtlens.numerics import ExplainedVariance, bootstrap_ratio, verdict

DELTA_EV = 0.01
"""Differences of explained variance below this count as equivalent."""
Tallies = dict[str, Tally]
"""By reconstructor, the SAE first."""
Widths = dict[str, int]
"""By reconstructor, its number of latents or components."""


def table(subject: Subject, tallies: Tallies, widths: Widths) -> list[ReconstructionRow]:
    """Rows of `reconstruction.parquet`."""
    every: list[tuple[str | None, int | None, list[int] | None]] = [(None, None, None)]
    if len(subject.cells) > 1:
        every += [(hook, thought, [i]) for i, (hook, thought) in enumerate(subject.cells)]
    return [
        ReconstructionRow(
            member=subject.label,
            reconstructor=name,
            hook_name=hook,
            thought_idx=thought,
            rows="all" if flagged else "kept",
            d_sae=widths[name],
            **vars(tally.over(cells, flagged=flagged)),
        )
        for name, tally in tallies.items()
        for hook, thought, cells in every
        for flagged in ((False, True) if subject.drops_outliers else (False,))
    ]


def reconstructor(tally: Tally, d_sae: int, seed: int) -> Reconstructor:
    """All rows that are not flagged; no interval with fewer than two problems, or no variance."""
    here, low, high = tally.rows > 0, None, None
    if here.sum() > 1 and tally.spread.sum() > 0:
        kept = tally.spread[here] - tally.error[here]
        found = bootstrap_ratio(kept, tally.spread[here], seed=seed)
        low, high = found.low, found.high
    return Reconstructor(
        d_sae=d_sae,
        **vars(tally.over()),
        explained_variance_low=low,
        explained_variance_high=high,
    )


def compare(mine: Tally, other: Tally, name: str, seed: int) -> AgainstBaseline:
    """The SAE's explained variance minus a baseline's, on the same rows."""
    here = mine.rows > 0
    difference, low, high, said = None, None, None, "inconclusive"
    if here.sum() > 1 and mine.spread.sum() > 0:
        found = bootstrap_ratio(other.error[here] - mine.error[here], mine.spread[here], seed=seed)
        difference, low, high = found.estimate, found.low, found.high
        said = verdict(low, high, delta=DELTA_EV)
    return AgainstBaseline(
        baseline=name,
        metric=ExplainedVariance.name,
        n_problems=int(here.sum()),
        difference=difference,
        low=low,
        high=high,
        verdict=said,
    )


Bounds = tuple[list[float | None], list[float | None]]


def headline(members: Sequence[Validated], split: str) -> dict[str, Number]:
    """The numbers to look at first; means over the members where there are several.

    Bounds of a mean are the means of the members' bounds: at least as wide as its own would be, however the
    members' errors go together.
    """
    n = sum(m.n for m in members)
    mine = [m.reconstruction["sae"] for m in members]
    bounds = _bounds(mine, "explained_variance")
    low, high = ([None if v is None else 1 - v for v in side] for side in bounds)
    found = _answers(members, split)
    found["fvu"] = _mean([m.fvu for m in mine], n, split, (high, low))
    found["explained_variance"] = _mean([m.explained_variance for m in mine], n, split, bounds)
    if any(len(m.hook_names) > 1 or m.thoughts for m in members):
        found["explained_variance_within"] = _mean([m.explained_variance_within for m in mine], n, split)
    found["l0"] = _mean([m.sparsity.l0 for m in members], n, split)
    found["dead_share"] = _mean([m.sparsity.dead_share for m in members], n, split)
    for name in ("pca_l0", "random"):
        others = [m.reconstruction[name] for m in members if name in m.reconstruction]
        bounds = _bounds(others, "explained_variance")
        found[f"explained_variance_{name}"] = _mean([o.explained_variance for o in others], n, split, bounds)
    rows = [r for m in members for r in m.fidelity or [] if isinstance(r, TextFidelity) and r.arm == "sae"]
    tokens = sum(r.n for r in rows)
    found["delta_ce"] = _mean([r.delta_ce for r in rows], tokens, split, _bounds(rows, "delta_ce"))
    scores = [r.ce_loss_score_mean for r in rows]
    found["ce_loss_score_mean"] = _mean(scores, tokens, split, _bounds(rows, "ce_loss_score_mean"))
    return {name: number for name, number in found.items() if number is not None}


def _mean(values: Sequence[float | None], n: int, split: str, bounds: Bounds | None = None) -> Number | None:
    """The mean of the values that are known; with bounds only where everybody has them."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    low, high = (None, None) if bounds is None else map(_whole_mean, bounds)
    return Number(value=float(np.mean(known)), low=low, high=high, n=n, split=split)


def _whole_mean(bounds: list[float | None]) -> float | None:
    known = [v for v in bounds if v is not None]
    return float(np.mean(known)) if len(known) == len(bounds) else None


def _bounds(rows: Sequence[Record], name: str) -> Bounds:
    """Everybody's bounds of a number, below and above."""
    low, high = ([getattr(row, f"{name}_{end}".lstrip("_")) for row in rows] for end in ("low", "high"))
    return low, high


def _answers(members: Sequence[Validated], split: str) -> dict[str, Number | None]:
    """Thoughts: what answers cost with everything replaced, first of all numbers."""
    found = [_whole(m) for m in members]
    mine = [rows["sae"] for rows in found if "sae" in rows]
    n = sum(row.n for row in mine)
    difference = _mean([row.difference for row in mine], n, split, _bounds(mine, ""))
    if difference is not None and len(members) == 1:
        difference = replace(difference, verdict=mine[0].verdict)
    numbers = {
        "spliced_difference": difference,
        "spliced_kl": _mean([row.kl for row in mine], n, split, _bounds(mine, "kl")),
    }
    for name in ("sae", "pca_l0", "random", "cell_mean", "mean"):
        rows = [own[name] for own in found if name in own]
        key = "spliced_accuracy" if name == "sae" else f"spliced_accuracy_{name}"
        accuracy, n = [row.accuracy for row in rows], sum(row.n for row in rows)
        numbers[key] = _mean(accuracy, n, split, _bounds(rows, "accuracy"))
    return numbers


def _whole(member: Validated) -> dict[str, ThoughtFidelity]:
    """By name, the row of a thought model with every place of one SAE replaced, which is the last one."""
    return {row.arm: row for row in member.fidelity or [] if isinstance(row, ThoughtFidelity)}
