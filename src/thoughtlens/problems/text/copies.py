"""Near copies: texts that are the same but for case, white space and punctuation.

What carries meaning stays: numbers with their points, signs and operators, brackets of a formula. So two
problems of one template with other numbers are no copies, nor are 3 + 4 and 3 - 4.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

INVISIBLE = re.compile("[\u00ad\u200b-\u200d\ufeff]")
TOKEN = re.compile(r"(?<!\w)\.\d+|\d+(?:[.:]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*|\S")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
MINUS = re.compile(r"(?<![^\s(=+*/^-])-(?=[\d.(])|(?<=[\d)])\s*-(?=\s*[\d(])|(?<!\w)(\w)\s+-(?=\s+\w(?!\w))")
"""A sign before a number, or a minus between numbers, brackets or single letters."""
SAYS = frozenset("*/%&@#\\_−")
"""Marks that Unicode calls punctuation (or a minus), and that say something."""
OPERATORS = frozenset("+*/=^−<>")
IN_FORMULAS = frozenset("()[]{}!")

MIN_PAIRS = 10
MORE_ALIKE = 0.1
"""Share of words by which other lines have to be more alike."""


@lru_cache(maxsize=1 << 16)
def folded(text: str) -> str:
    """The text without case, white space and punctuation; one of nothing else keeps all but its spaces."""
    seen = INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    plain = " ".join(seen.casefold().split())
    marked = MINUS.sub(lambda m: m[0][:-1] + "−", THOUSANDS.sub("", re.sub("[‐-―]", "-", plain)))
    tokens = TOKEN.findall(marked)
    said = {*tokens}
    says = SAYS | IN_FORMULAS if OPERATORS & said else SAYS
    marks = {t for t in said - says if len(t) == 1 and _is_mark(t)}
    kept = " ".join(t for t in tokens if t not in marks)
    return kept.replace("'", "").replace("’", "") or plain


def grouped(texts: Sequence[str | None], groups: Sequence[str | None]) -> Int[np.ndarray, " n"]:
    """For each text the first one of its group: equal `groups`, near copies, and whatever these connect.

    None is a group, or a text, like no other.
    """
    keys = ([None if t is None else folded(t) for t in texts], groups)
    alone = ([f"\0{i}" if key is None else key for i, key in enumerate(column)] for column in keys)
    copy, group = (np.unique(column, return_inverse=True)[1] for column in alone)
    n_groups, n_copies = (int(codes.max(initial=-1)) + 1 for codes in (group, copy))
    edges = coo_array((np.ones(len(copy)), (group, n_groups + copy)), (n_groups + n_copies,) * 2)
    _, part = connected_components(edges, directed=False)
    _, first, of = np.unique(part[group], return_index=True, return_inverse=True)
    return first[of]


class Slip(NamedTuple):
    """By how many lines pairs of texts look shifted, and on what that rests."""

    lines: int
    more: float
    """Share of words by which texts that many lines on are more alike, mean over the pairs."""
    n: int


def slipped(texts: Sequence[str], pairs: Sequence[tuple[int, int]]) -> Slip | None:
    """Whether texts are more alike to lines beside their partners than to these; None: they are not.

    Twins differ in a word or two. Where a column of groups, or a file of twins, has slipped by a line or two,
    the twin stands beside. Fewer than `MIN_PAIRS` pairs tell nothing.
    """
    words = [frozenset(text.casefold().split()) for text in texts]

    def alike(a: int, b: int) -> float:
        return len(words[a] & words[b]) / max(len(words[a] | words[b]), 1)

    for shift in (-1, 1, -2, 2):
        there = [(a, b) for a, b in pairs if 0 <= b + shift < len(texts) and b + shift != a]
        if len(there) >= MIN_PAIRS:
            more = np.array([alike(a, b + shift) - alike(a, b) for a, b in there])
            if more.mean() > max(MORE_ALIKE, 4 * more.std(ddof=1) / np.sqrt(len(more))):
                return Slip(shift, float(more.mean()), len(there))
    return None


@cache
def _is_mark(sign: str) -> bool:
    return unicodedata.category(sign)[0] == "P"
