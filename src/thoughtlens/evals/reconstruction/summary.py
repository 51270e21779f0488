"""From tallies to the tables and numbers that people read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from thoughtlens.core import Number, Record
from thoughtlens.evals.heldout.measure import FLAT, Tally, flat_cells
from thoughtlens.evals.heldout.records import TextFidelity
from thoughtlens.evals.heldout.subject import Subject
from thoughtlens.evals.reconstruction.records import (
    AgainstBaseline,
    ReconstructionRow,
    Reconstructor,
    ThoughtFidelity,
    Validated,
)
from thoughtlens.numerics import (
    ExplainedVariance,
    RatioInterval,
    Tested,
    family,
    ratio_over_groups,
    too_narrow,
    verdict,
)

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
    """All rows that are not flagged; no interval with fewer than two groups of problems, or no variance."""
    found = explained(tally, tally.spread - tally.error, seed)
    return Reconstructor(
        d_sae=d_sae,
        **vars(tally.over()),
        explained_variance_low=None if found is None else found.low,
        explained_variance_high=None if found is None else found.high,
    )


def explained(tally: Tally, squares: Float64[np.ndarray, " n_problems"], seed: int) -> RatioInterval | None:
    """These sums by problem as a share of the rows' variance, with an interval over groups of problems."""
    here = tally.rows > 0
    group = tally.subject.store.group_idx[here]
    return ratio_over_groups(squares[here], tally.spread[here], group, seed=seed)


def compare(mine: Tally, other: Tally, name: str, seed: int) -> AgainstBaseline:
    """The SAE's explained variance minus a baseline's, on the same rows."""
    found = explained(mine, other.error - mine.error, seed)
    return AgainstBaseline(
        baseline=name,
        metric=ExplainedVariance.name,
        n_problems=int((mine.rows > 0).sum()),
        n_groups=0 if found is None else found.support.n_groups,
        difference=None if found is None else found.estimate,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        verdict="inconclusive" if found is None else verdict(found.low, found.high, delta=DELTA_EV),
    )


def together(members: Sequence[Validated]) -> list[Validated]:
    """The same with verdicts that know how many comparisons there are."""
    tested = {
        (m.member, c.baseline): Tested(c.low, c.high, c.n_groups or c.n_problems)
        for m in members
        for c in m.comparisons
        if c.low is not None and c.high is not None
    }
    said = dict(zip(tested, family(list(tested.values()), delta=DELTA_EV), strict=True))

    def judged(m: Validated) -> list[AgainstBaseline]:
        own = [(c, said.get((m.member, c.baseline))) for c in m.comparisons]
        return [c if one is None else replace(c, **one._asdict()) for c, one in own]

    return [replace(m, comparisons=judged(m)) for m in members]


Bounds = tuple[list[float | None], list[float | None]]


def headline(members: Sequence[Validated], split: str) -> dict[str, Number]:
    """The numbers to look at first; means over the members where there are several.

    Bounds of a mean are the means of the members' bounds: at least as wide as its own would be, however the
    members' errors go together.
    """
    found = _answers(members, split)
    members = varying(members)
    n = sum(m.n for m in members)
    mine = [m.reconstruction["sae"] for m in members]
    bounds = _bounds(mine, "explained_variance")
    low, high = ([None if v is None else 1 - v for v in side] for side in bounds)
    found |= {
        "fvu": _mean([m.fvu for m in mine], n, split, (high, low)),
        "explained_variance": _mean([m.explained_variance for m in mine], n, split, bounds),
    }
    if any(len(m.hook_names) > 1 or m.thoughts for m in members):
        found["explained_variance_within"] = _mean([m.explained_variance_within for m in mine], n, split)
    found |= {
        "l0": _mean([m.sparsity.l0 for m in members], n, split),
        "dead_share": _mean([m.sparsity.dead_share for m in members], n, split),
    }
    for name in ("pca_l0", "random"):
        others = [m.reconstruction[name] for m in members if name in m.reconstruction]
        bounds = _bounds(others, "explained_variance")
        found[f"explained_variance_{name}"] = _mean([o.explained_variance for o in others], n, split, bounds)
    rows = [r for m in members for r in m.fidelity or [] if isinstance(r, TextFidelity) and r.arm == "sae"]
    tokens = sum(r.n for r in rows)
    for name in ("delta_ce", "ce_loss_score_mean"):
        found[name] = _mean([getattr(r, name) for r in rows], tokens, split, _bounds(rows, name))
    return {name: number for name, number in found.items() if number is not None}


def varying(members: Sequence[Validated]) -> Sequence[Validated]:
    """The members that the headline counts: those with a cell that varies; all if there is none."""
    flat = set(flat_cells([cell for m in members for cell in m.spreads]))
    some = [m for m in members if not m.spreads or {(c.hook_name, c.thought_idx) for c in m.spreads} - flat]
    return some or members


def remarks(members: Sequence[Validated]) -> list[str]:
    """What the result says of its numbers: doubtful intervals, and cells that hardly vary."""
    notes = [f"{m.member}: {note}" for m in members for note in m.notes]
    notes += [line for m in varying(members) for line in _learned_nothing(m)]
    flat = flat_cells([cell for m in members for cell in m.spreads])
    if flat:
        counted = {m.member for m in varying(members)}
        left_out = ", ".join(m.member for m in members if m.member not in counted)
        names = [hook if thought is None else f"{hook} thought {thought}" for hook, thought in flat]
        notes.append(
            f"{len(flat)} cells hardly vary, so that what is explained there means nothing (spread at most "
            f"{FLAT:.0%} of their norm, or of their hook's median spread): {', '.join(names[:8])}"
            f"{', ...' if len(names) > 8 else ''}; left out of the headline: {left_out or 'none'}"
        )
    return notes


def _learned_nothing(member: Validated) -> list[str]:
    """What is to be said of an SAE that explains no more than a constant, or an SAE that learned nothing."""
    mine = member.reconstruction["sae"].explained_variance
    without = {"a constant": 0.0, "an SAE with random directions": _random(member)}
    beaten = [name for name, ev in without.items() if None not in (mine, ev) and mine - ev <= DELTA_EV]
    if not beaten:
        return []
    fires = "no latent fires" if member.sparsity.l0 == 0 else f"L0 {member.sparsity.l0:.3g}"
    return [
        f"{member.member}: explains no more than {beaten[0]} would (explained variance {mine:.3g}, {fires}): "
        f"was it trained, on this layer and model, on rows scaled as these are?"
    ]


def _random(member: Validated) -> float | None:
    found = member.reconstruction.get("random")
    return None if found is None else found.explained_variance


def doubts(mine: Tally, fidelity: Sequence[Record] | None, seed: int) -> list[str]:
    """Why intervals of one member may be too narrow, and what a splice did not cover."""
    ev = explained(mine, mine.spread - mine.error, seed)
    notes = {"the interval of explained variance": None if ev is None else ev.doubt}
    rows = [r for r in fidelity or [] if isinstance(r, TextFidelity) and r.arm == "sae"]
    for row in rows:
        notes[f"the interval of delta_ce at {row.hook_name}"] = row.doubt
    found = [f"{what} {doubt}: it may be too narrow" for what, doubt in notes.items() if doubt]
    found += too_narrow(
        "kl",
        [
            (r.scope if r.hook_name is None else f"{r.hook_name}@{r.thought_idx}", r.kl_doubt)
            for r in fidelity or []
            if isinstance(r, ThoughtFidelity) and r.arm == "sae"
        ],
    )
    if rows and rows[0].ce_uniform is not None and rows[0].ce_clean >= rows[0].ce_uniform:
        found.append(
            f"the untouched model tells the next token no better than a blind guess among all would (cross-"
            f"entropy {rows[0].ce_clean:.3g} of {rows[0].ce_uniform:.3g} nats), so that what a "
            f"splice costs says little: was it trained, and are tokenizer and weights of one model?"
        )
    if rows and (rows[0].n_uncovered or 0) > (rows[0].n_windows or 0):
        found.append(
            f"{rows[0].n_uncovered} of {rows[0].n_tokens} tokens of the spliced text have no row in the "
            f"store, or a flagged one, and are never replaced (special tokens, roles of a chat, outliers)"
        )
    return found


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
