"""What in a label column looks like a slip of its making, or like something else that it follows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

MISSING = frozenset(("", "nan", "NaN", "None", "null", "NULL", "N/A", "n/a", "<NA>", "NaT"))
"""How programs write that there is no value."""
CODES = frozenset(f"{sign}{'9' * n}" for sign in ("", "-") for n in range(1, 8))
"""How people write that there is no number."""
FAR = 3.0
"""Ranges of all other numbers by which a repeated one has to be away to be doubted."""
BINS = 8
"""Parts of equal size into which lengths and lines are cut."""
MIN_UNITS = 5 * BINS
TELLS = 0.25
"""Share of a label's spread that is worth a word."""


def doubtful_values(name: str, values: Sequence[str]) -> list[str]:
    """What is to be said of a label column whose values look like slips of its making."""
    said, spelt = [], defaultdict(list)
    for value in values:
        spelt[" ".join(value.split()).casefold()].append(value)
    for alike in spelt.values():
        if len(alike) > 1:
            listed = " and ".join(map(repr, alike))
            said.append(
                f"label {name}: {listed} differ in case or space alone, and count as different values"
            )
    if words := [value for value in values if value.strip() in MISSING]:
        listed = ", ".join(map(repr, words))
        said.append(f"label {name}: {listed} counts as a value; leave cells empty (null) where there is none")
    return said


def as_numbers(values: Sequence[str]) -> Float[np.ndarray, " values"]:
    """Values as numbers; all NaN where one is none."""
    try:
        return np.array(values, float)
    except ValueError:
        return np.full(len(values), np.nan)


def doubtful_numbers(name: str, numbers: Float[np.ndarray, " n"]) -> list[str]:
    """What is to be said of a number that stands far from all others, as a missing one is often written.

    Doubted are the lowest and the highest where they repeat and lie `FAR` times as far from the next number
    as all others do from each other; a code such as -999 also alone and once as far, or as the only number
    below 0.
    """
    found, n = np.unique(numbers[np.isfinite(numbers)], return_counts=True)
    said = []
    for at, rest in ((0, found[1:]), (-1, found[:-1])):
        if len(rest) < 3 or np.ptp(rest) == 0:
            continue
        value, gap = float(found[at]), float(np.abs(rest - found[at]).min())
        code = f"{value:g}" in CODES
        far = gap > (1 if code else FAR) * np.ptp(rest) and (code or n[at] > 1)
        if far or (code and value <= -9 and rest[0] >= 0):
            said.append(
                f"label {name}: {value:g} ({n[at]} of {n.sum()}) lies far from all other numbers, "
                f"{rest[0]:g} to {rest[-1]:g}, and counts as one; leave cells empty (null) instead"
            )
    return said


def followed(
    name: str,
    y: Shaped[np.ndarray, " n"],
    texts: Sequence[str],
    groups: Int[np.ndarray, " n"],
    *,
    classes: bool,
) -> list[str]:
    """What is to be said of a label that the length of the text, or its place among all, tells alone.

    The share told is that of the label's spread (of a number its variance, of classes the Gini impurity,
    which gives Goodman and Kruskal's tau) between `BINS` bins, less what chance gives that many. One unit a
    group; fewer than `MIN_UNITS` tell nothing.
    """
    first = np.sort(np.unique(groups, return_index=True)[1])
    if len(first) < MIN_UNITS or len(np.unique(y[first])) < 2:
        return []
    spread = (
        (y[first, None] == np.unique(y[first])).astype(float) if classes else y[first, None].astype(float)
    )
    places = {
        "the length of the text": np.array([len(text) for text in texts]),
        "the place in the file": np.arange(len(texts)),
    }
    shares = {what: _told(place[first], spread) for what, place in places.items()}
    return [
        f"label {name}: {what} alone tells {share:.0%} of its spread (by chance 0 %), and what else "
        f"changes with {what} can pass for it; compare values of the same {what.split()[1]}"
        for what, share in shares.items()
        if share > TELLS
    ]


def _told(place: Int[np.ndarray, " n"], spread: Float[np.ndarray, "n values"]) -> float:
    """Adjusted share of the variance of `spread` that lies between bins of `place`."""
    edges = np.unique(np.quantile(place, np.linspace(0, 1, BINS + 1)[1:-1], method="lower"))
    of = np.unique(np.searchsorted(edges, place, side="left"), return_inverse=True)[1]
    size = np.bincount(of)
    means = np.stack([np.bincount(of, column) for column in spread.T]) / size
    within = ((spread.T - means[:, of]) ** 2).sum() / (len(place) - len(size))
    return float(1 - within / spread.var(axis=0, ddof=1).sum())
