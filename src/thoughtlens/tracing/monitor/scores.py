"""The two scores: that thoughts contradict the answer, and that they hold more than its chain explains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from thoughtlens.problems import Rule, Step
from thoughtlens.tracing.monitor.watched import LEAST, Watched

MISSING = float(-np.log(LEAST))
"""What a step that the question asks for and nobody reads adds, nats."""
FAINT = 1e-6
"""Added to probabilities whose ratio is taken."""
RIDGE = 1.0
"""Penalty of the linear prediction of a state from what is read."""
FLOOR = 1e-3
"""Variance that every direction has at least, of the mean over directions."""
MIN_COUNT, MOST_VALUES = 5, 64
"""A value that is read explains something if so many problems have it; the most frequent of a column."""
PARTS = 5
"""Parts of the clean problems, each predicted from the others."""
MIN_FIT = 30
"""Problems that a thought's usual states need."""


def chains(rule: Rule, seen: Watched) -> list[list[Step]]:
    """The steps that the readings of every problem say."""
    rows = zip(seen.questions, seen.said, seen.answers, strict=True)
    return [rule.join(question, said, rule.answer(question, answer)) for question, said, answer in rows]


def contradictions(rule: Rule | None, seen: Watched, usual: Watched | None = None) -> Float[np.ndarray, " n"]:
    """How badly the answers follow from the thoughts, nats.

    Where a question says how many steps it asks for: -log p of the chain that the thoughts say, each of its
    operations as read, each of its values as what follows, the last of them as the answer; and `MISSING` for
    every step that is asked for and not said. Else: how much less likely than in other problems the answer's
    word is, in the thought where it is likeliest; and `MISSING` where it does not follow from the steps.

    Args:
        rule: What a step is; None: nobody knows.
        seen: The problems.
        usual: Problems that give the words' usual probability; None: the same ones.
    """
    said = [] if rule is None else chains(rule, seen)
    asked = [None if rule is None else rule.asked(question) for question in seen.questions]
    if rule is not None and None not in asked:
        return _surprise(rule, seen, said, np.array(asked, float))
    found = _unsaid(seen, usual or seen)
    for i, steps in enumerate(said):
        question = seen.questions[i]
        leads = rule is None or rule.leads(question, steps, rule.answer(question, seen.answers[i]))
        found[i] += 0 if leads else MISSING
    return found


def _surprise(rule: Rule, seen: Watched, said: Sequence[Sequence[Step]], asked: np.ndarray) -> np.ndarray:
    n = np.array([len(steps) for steps in said])
    found, wanted = MISSING * np.maximum(asked - n, n == 0), []
    for i, steps in enumerate(said):
        wanted += [(i, one.read_at, one.operation) for one in steps]
        wanted += [(i, one.value_at, rule.spelled(one.follows)) for one in steps[:-1]]
        wanted += [(i, -1, rule.spelled(one.follows)) for one in steps[-1:]]
    for p in sorted({p for _, p, _ in wanted}):
        rows = np.array([i for i, at, _ in wanted if at == p])
        words = [word for _, at, word in wanted if at == p]
        told = seen.answered(rows, words) if p < 0 else seen.read(rows, p, words)
        np.add.at(found, rows, -np.log(np.maximum(told, LEAST)))
    return found


def _unsaid(seen: Watched, usual: Watched) -> np.ndarray:
    found = np.full(len(seen.questions), np.inf)
    for p in range(1, seen.had.shape[1]):
        rows = np.flatnonzero(seen.had[:, p])
        if len(rows):
            words = [seen.heard[i] for i in rows]
            own, others = seen.read(rows, p, words), usual.usual(p, words)
            found[rows] = np.minimum(found[rows], np.log(others + FAINT) - np.log(own + FAINT))
    return np.where(np.isfinite(found), found, MISSING)


def explained(rule: Rule | None, seen: Watched) -> list[list[str]]:
    """What the answer's chain says of each problem, in columns: its steps, or what is read; the answer."""
    n = seen.had.shape[1]
    if rule is None:
        return [*_columns((said[1:] for said in seen.said), n - 1), seen.heard]
    rows = (
        [text for one in steps for text in (one.before, one.operation, one.follows, str(one.read_at))]
        for steps in chains(rule, seen)
    )
    return [*_columns(rows, 4 * n), seen.answers]


def _columns(rows: Iterable[Sequence[str]], n: int) -> list[list[str]]:
    """Of rows that are as long as may be."""
    return [list(column) for column in zip(*([*row, *[""] * n][:n] for row in rows), strict=True)]


@dataclass(frozen=True, eq=False)
class _Cell:
    """One place's usual states: what the chain's words make of them, and how the rest spreads."""

    mean: Float[np.ndarray, " d"]
    weights: Float[np.ndarray, "k d"]
    axes: Float[np.ndarray, "d d"]
    variance: Float[np.ndarray, " d"]
    typical: float

    def distance(
        self, x: Float[np.ndarray, "n d"], told: Float[np.ndarray, "n k"]
    ) -> Float[np.ndarray, " n"]:
        """Mahalanobis distance of the rest, squared, of that of a typical problem."""
        return _length((x - self.mean - told @ self.weights) @ self.axes, self.variance) / self.typical


class Beyond:
    """How far thoughts are from where the chain that leads to the answer would have them.

    Each state (thought_in and thought_out of each thought) is predicted linearly from the words of the chain,
    fitted on clean problems; of what remains, the mean over states of log(Mahalanobis distance squared), each
    of that of a typical clean problem. 0 is usual; a step of 0.7 is twice as far.
    """

    def __init__(self, columns: Sequence[Sequence[str]], seen: Watched) -> None:
        self.values = [_common(column) for column in columns]
        told = self._told(columns)
        self.middle = told.mean(0)
        self.cells: dict[tuple[str, int], _Cell] = {}
        for key, x in _places(seen).items():
            there = ~np.isnan(x).any(1)
            if there.sum() >= MIN_FIT:
                self.cells[key] = _fit(x[there], told[there] - self.middle)

    def score(self, columns: Sequence[Sequence[str]], seen: Watched) -> Float[np.ndarray, " n"]:
        """Of problems; the least where no thought of theirs is there, which holds nothing then."""
        told, rows = self._told(columns) - self.middle, []
        for key, x in _places(seen).items():
            if key in self.cells:
                rows.append(np.log(np.maximum(self.cells[key].distance(x, told), LEAST)))
        if not rows:
            return np.full(len(seen.questions), np.nan)
        distances = np.stack(rows)
        n = (~np.isnan(distances)).sum(0)
        return np.where(n > 0, np.nansum(distances, 0) / np.maximum(n, 1), -MISSING)

    def _told(self, columns: Sequence[Sequence[str]]) -> Float[np.ndarray, "n k"]:
        parts = [np.array(column)[:, None] == own for column, own in zip(columns, self.values, strict=True)]
        return np.concatenate(parts, axis=1).astype(float)


def _places(seen: Watched) -> dict[tuple[str, int], np.ndarray]:
    """The states of every thought; what enters the first is the same for all problems of many models."""
    sites = {"thought_in": seen.inputs, "thought_out": seen.states}
    return {
        (site, p): x[:, p].double().cpu().numpy() for site, x in sites.items() for p in range(1, x.shape[1])
    }


def _common(column: Sequence[str]) -> np.ndarray:
    counts = Counter(column).most_common(MOST_VALUES)
    return np.array([value for value, n in counts if n >= MIN_COUNT], dtype=object)


def _fit(x: Float[np.ndarray, "n d"], told: Float[np.ndarray, "n k"]) -> _Cell:
    """What remains is that of problems which the prediction was not fitted on."""
    mean = x.mean(0)
    rest, part = np.empty_like(x), np.arange(len(x)) % PARTS
    for k in range(PARTS):
        rest[part == k] = x[part == k] - mean - told[part == k] @ _ridge(told[part != k], x[part != k] - mean)
    variance, axes = scipy.linalg.eigh(rest.T @ rest / len(rest))
    variance = np.maximum(variance, 0) + max(FLOOR * float(variance.mean()), 1e-12)
    return _Cell(
        mean, _ridge(told, x - mean), axes, variance, float(np.median(_length(rest @ axes, variance)))
    )


def _ridge(told: Float[np.ndarray, "n k"], x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "k d"]:
    if not told.shape[1]:
        return np.zeros((0, x.shape[1]))
    gram = told.T @ told
    gram[np.diag_indices_from(gram)] += RIDGE
    return scipy.linalg.solve(gram, told.T @ x, assume_a="pos")


def _length(rest: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return (rest**2 / variance).sum(1)


def order(n: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Another problem for every problem."""
    return np.roll(own := rng.permutation(n), 1)[np.argsort(own)]
