"""Which thought holds which variable, found with twins; no place is known beforehand.

A twin is a problem with another word for one variable. What its run leaves at a place is put into the
problem's own run. A place holds the value after step k where that brings the twin's answer for the start
value and every operation up to the k-th, and changes nothing for later operations. It holds an operation
where that is so for this operation alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from thoughtlens.problems import Written
from thoughtlens.tracing.program.asked import Asked, Mind, Spot, spots_of
from thoughtlens.tracing.program.records import HeldRow

FEWEST = 4
"""Twins with another answer, without which nothing is said of a variable."""
MOVES = 0.3
"""Share of twins with another answer, below which a model does not compute with a variable."""
TRIES = 20


class Holding(NamedTuple):
    """A place that holds a variable."""

    spot: Spot
    score: float


@dataclass(frozen=True, eq=False)
class Places:
    """What was found of every place."""

    rows: list[HeldRow]
    values: dict[int, list[Holding]]
    """By step, the best place first; steps whose value no place holds are missing."""
    operations: dict[int, list[Holding]]
    moves: dict[str, float]
    """By variable, the share of twins whose answer is another one."""


def name_of(at: int) -> str:
    """Of the start value, or an operation."""
    return f"op{at}" if at else "start"


def find(
    mind: Mind,
    rule: Written,
    problems: Sequence[Asked],
    held_out: set[tuple[str, ...]],
    *,
    n: int,
    least: float,
    rng: np.random.Generator,
) -> Places:
    """Try every place with twins in every variable, on at most `n` problems each."""
    n_steps, spots = len(problems[0].words) - 1, spots_of(mind.model.spec)
    rows: list[HeldRow] = []
    moves: dict[str, float] = {}
    for at in range(n_steps + 1):
        pairs = _twins(rule, problems, held_out, at, rng)[:n]
        own, other = ([pair[i].question for pair in pairs] for i in (0, 1))
        if not pairs:
            moves[name_of(at)] = 0.0
            continue
        said = np.array(mind.answers(other)[0])
        left = mind.think(other, spots)
        untouched, patched = mind.answers(own, list(zip(spots, left, strict=True)))
        differs = said != np.array(untouched)
        moves[name_of(at)] = float(differs.mean())
        if differs.sum() < FEWEST:
            continue
        for spot, answers in zip(spots, patched, strict=True):
            rows.append(
                HeldRow(
                    variable=name_of(at),
                    thought_idx=spot.thought,
                    route=spot.route,
                    follows=float((np.array(answers) == said)[differs].mean()),
                    stays=float((np.array(answers) == np.array(untouched))[differs].mean()),
                    n=int(differs.sum()),
                )
            )
    steps = range(1, n_steps + 1)
    return Places(
        rows,
        {k: found for k in steps if (found := _holding(rows, spots, range(k + 1), n_steps, least))},
        {k: found for k in steps if (found := _holding(rows, spots, [k], n_steps, least))},
        moves,
    )


def _holding(
    rows: Sequence[HeldRow], spots: Sequence[Spot], moved: Sequence[int], n_steps: int, least: float
) -> list[Holding]:
    """Places where twins in these variables move the answer and twins in all others leave it."""
    told = {(row.variable, Spot(row.thought_idx, row.route)): row for row in rows}
    found = []
    for spot in spots:
        about = [told.get((name_of(at), spot)) for at in range(n_steps + 1)]
        shares = [
            0.0 if row is None else row.follows if at in moved else row.stays for at, row in enumerate(about)
        ]
        if min(shares) >= least:
            found.append(Holding(spot, min(shares)))
    return sorted(found, key=lambda one: (-round(one.score, 2), one.spot.thought))


def _twins(
    rule: Written,
    problems: Sequence[Asked],
    held_out: set[tuple[str, ...]],
    at: int,
    rng: np.random.Generator,
) -> list[tuple[Asked, Asked]]:
    """Problems, each with a twin that has another word for one variable and is not held out."""
    words = sorted({one.words[at] for one in problems})
    pairs = []
    for one in problems:
        for word in rng.permutation(words)[:TRIES].tolist():
            is_new = word != one.words[at] and word not in rule.offers(one.question)
            other = one.changed(rule, at, word) if is_new else None
            if other is not None and other.words not in held_out:
                pairs.append((one, other))
                break
    return pairs
