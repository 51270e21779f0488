"""What rules reach that look at the words of a question, and neither reason nor learn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from thoughtlens.core import DataError, Record
from thoughtlens.numerics import wilson
from thoughtlens.problems.tasks import numbers
from thoughtlens.problems.tasks.graphs import EITHER, WHETHER

Rule = Callable[[str], str | None]
"""The answer to a question; None: the rule does not speak."""


@dataclass(frozen=True, kw_only=True)
class Blind(Record):
    """How often a rule is right, over all problems; where it does not speak, it is wrong."""

    rule: str
    n: int
    right: int
    value: float
    low: float
    high: float


def blind(table: pa.Table) -> list[Blind]:
    """How often rules are right that only look at the words, best first.

    Raises:
        DataError: no problems.
    """
    if not len(table):
        raise DataError("Expected problems, got none")
    questions, answers = table["question"].to_pylist(), table["answer"].to_pylist()
    found = []
    for name, rule in _rules(questions, answers):
        right = sum(rule(q) == a for q, a in zip(questions, answers, strict=True))
        share = wilson(right, len(answers))
        found.append(
            Blind(
                rule=name, n=len(answers), right=right, value=share.estimate, low=share.low, high=share.high
            )
        )
    return sorted(found, key=lambda one: -one.right)


def _rules(questions: list[str], answers: list[str]) -> Iterator[tuple[str, Rule]]:
    most = Counter(answers).most_common(1)[0][0]
    yield "the most frequent answer", lambda q: most
    if any(EITHER.search(q) for q in questions):
        yield "the concept that is offered first", lambda q: _offered(q, lambda said, one: 0)
        yield "the offered concept that is named more often", lambda q: _offered(q, _times)
        yield (
            "the offered concept that is named less often",
            lambda q: _offered(q, _seldom),
        )
        yield "the offered concept that is named last", lambda q: _offered(q, _last)
    if any(WHETHER.search(q) for q in questions):
        yield "true if it is said of something last", _polarity
    if sum(numbers.answer(a) is not None for a in answers) > len(answers) / 2:
        yield "the last number", lambda q: _of_numbers(q, lambda found: found[-1])
        yield "the largest number", lambda q: _of_numbers(q, max)
        yield "the sum of all numbers", lambda q: _of_numbers(q, sum)
        yield "the product of all numbers", lambda q: _of_numbers(q, math.prod)
        yield "the first number less the second", lambda q: _of_numbers(q, lambda x: x[0] - x[1])
        yield "the first two numbers added", lambda q: _of_numbers(q, lambda x: x[0] + x[1])
        yield "the first two numbers multiplied", lambda q: _of_numbers(q, lambda x: x[0] * x[1])


def _times(said: str, concept: str) -> int:
    return said.split().count(f"{concept}.") + said.split().count(concept)


def _seldom(said: str, concept: str) -> int:
    return -_times(said, concept)


def _last(said: str, concept: str) -> int:
    words = [word.rstrip(".") for word in said.split()]
    return max((i for i, word in enumerate(words) if word == concept), default=-1)


def _offered(question: str, score: Callable[[str, str], int]) -> str | None:
    match = EITHER.search(question)
    if match is None:
        return None
    said = question[: match.start()]
    chosen = max((match["first"], match["second"]), key=lambda one: score(said, one))
    return f"{match['root']} is a {chosen}."


def _polarity(question: str) -> str | None:
    match = WHETHER.search(question)
    if match is None:
        return None
    claimed = (match["no"] or "") + match["target"]
    said = question[: match.start()]
    plain = max(said.rfind(f" {match['target']}"), 0)
    negated = said.endswith("not", 0, plain)
    return str(("not " + match["target"] if negated else match["target"]) == claimed)


def _of_numbers(question: str, rule: Callable) -> str | None:
    found = [one.value for one in numbers.in_text(question)]
    return numbers.plain(rule(found)) if len(found) > 1 else None
