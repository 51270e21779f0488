"""How often a reading is the word that a thought could have meant, beside shuffled words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from thoughtlens.latents.lens.rows import Target
from thoughtlens.numerics import max_statistic, permutation_p, proportion, shuffled_blocks

DEFINITIONS = {
    "rate": "share of states whose strongest token reads as the right word (spaces around it apart; of text, "
    "as the next token); low, high: Wilson 95 % interval, at the number of independent problems that "
    "they are worth where problems share a group",
    "rate_top": "share of states with the right word among their top_k tokens",
    "null": "the rate after the right words were shuffled over the problems, group by group, mean over the "
    "shuffles; null_high: their 95 % quantile",
    "p": "share of shuffles that reach the rate",
    "p_max": "share of shuffles in which any lens, hook, thought and column is as many standard deviations "
    "above its mean over shuffles and true order as this one (Westfall and Young 1993)",
    "intermediate": "any of the problem's values v1, v2, .. except the last, which is the answer",
    "subset": "all; right, wrong: problems that the model answered so, not part of p_max",
}


@dataclass(frozen=True, eq=False)
class Scored:
    """One lens at one cell on one column."""

    n: int
    n_groups: int
    rate: float
    low: float
    high: float
    rate_top: float
    null: Float[np.ndarray, " permutations"]
    """The rate under each shuffle; none where none was asked for."""
    at: Int[np.ndarray, " n"]
    """The rows that count."""
    hits: Bool[np.ndarray, " n"]
    """Which of them are read."""

    @property
    def p(self) -> float | None:
        """Share of shuffles that reach the rate."""
        return permutation_p(self.rate, self.null) if len(self.null) else None


def score(
    words: Int[np.ndarray, "readings n k"],
    target: Target,
    groups: Int[np.ndarray, " n"],
    keep: Bool[np.ndarray, " n"],
    *,
    n_permutations: int,
    seed: int,
) -> list[Scored]:
    """Several readings of the same rows against one target; none below two groups.

    Args:
        words: The k strongest words of each row, strongest first.
        target: What they are compared with.
        groups: Group of each row; rows of a group are shuffled together.
        keep: Rows to score.
        n_permutations: Shuffles, the same for all readings; 0: no null.
        seed: Of the shuffles.
    """
    at = np.flatnonzero(keep & target.known)
    at = at[np.argsort(groups[at], kind="stable")]
    names, own = np.unique(groups[at], return_inverse=True)
    if len(names) < 2:
        return []
    words, y = words[:, at], target.y[at]
    first, among = _hits(words[..., :1], y), _hits(words, y).mean(1)
    rng = np.random.default_rng((seed, 53))
    shuffles = (y[shuffled_blocks(own, rng)] for _ in range(n_permutations))
    null = np.array([_hits(words[..., :1], other).mean(1) for other in shuffles]).reshape(-1, len(words))
    return [
        Scored(
            len(at), len(names), float(hits.mean()), bounds.low, bounds.high, float(top), by_chance, at, hits
        )
        for hits, top, bounds, by_chance in zip(
            first, among, (proportion(row, own) for row in first), null.T, strict=True
        )
    ]


def family_p(scored: Sequence[Scored]) -> list[float]:
    """`p_max` of each over all of them.

    Mean and spread are those of the shuffles and the true order together: without an effect the true order is
    one shuffle more, and must not alone be judged by a scale that it had no part in.
    """
    if not scored:
        return []
    every = np.vstack([[s.rate for s in scored], np.column_stack([s.null for s in scored])])
    spread = np.maximum(every.std(0), [1 / s.n for s in scored])  # a null that never moves
    every = (every - every.mean(0)) / spread
    return max_statistic(every[0], every[1:]).tolist()


def _hits(
    words: Int[np.ndarray, "readings n k"], y: Int[np.ndarray, "n options"]
) -> Bool[np.ndarray, "readings n"]:
    right = np.zeros(words.shape[:2], bool)
    for option in y.T:
        right |= ((words == option[:, None]) & (option >= 0)[:, None]).any(2)
    return right
