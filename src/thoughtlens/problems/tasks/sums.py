"""Steps of word problems: what follows from numbers of the question and earlier results, by + - * / and %.

A word problem does not write its operations, so that a number that is read joins where some operation on two
numbers at hand gives it. By chance that happens often; what a step is worth, its tests say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

from thoughtlens.problems.tasks import numbers
from thoughtlens.problems.tasks.numbers import Found, plain
from thoughtlens.problems.tasks.operands import MEANT, sensible
from thoughtlens.problems.tasks.steps import Step, Twin

TWO_NUMBERS = 0.9
"""Share of questions with two numbers, and of answers that are numbers, from which on this rule fits."""
NEAR = 12
"""New values that are tried for an operand, below and above."""
PERCENT = re.compile(r"%|\bpercent", re.I)
WRITTEN = re.compile(rf"(?P<a>{numbers.DIGITS})(?P<sign>[-+*/%])(?P<b>{numbers.DIGITS})")
COMPUTE: Mapping[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "%": lambda a, b: a * b / 100,
}
"""`20%150` is 20 percent of 150."""


class _Way(NamedTuple):
    """An operation on two numbers at hand, and how far-fetched it is."""

    operation: str
    value: Fraction
    cost: tuple[bool, bool, bool, bool]


class SumsRule:
    """Steps such as `48/2`, on numbers that the question writes or means and on earlier results."""

    def __init__(self, first: Callable[[str], str]) -> None:
        self.spelled = cache(first)
        """The first token of a number: of one that the model writes in several, the beginning."""

    def offers(self, question: str) -> tuple[str, ...]:
        """None is written."""
        del question
        return ()

    def asked(self, question: str) -> None:
        """It does not say how many."""
        del question

    def wanted(self, question: str) -> None:
        """It does not say which."""
        del question

    def is_value(self, word: str) -> bool:
        """Whether a word is digits."""
        return word.isascii() and word.isdigit()

    def answer(self, question: str, text: str) -> str:
        """The last number of an answer; the text where it has none."""
        del question
        found = list(re.finditer(rf"-?(?:{numbers.DIGITS})", text))
        if not found:
            return text.strip()
        said = found[-1][0]
        return plain(-numbers.read(said[1:]) if said[0] == "-" else numbers.read(said))

    def join(self, question: str, readings: Sequence[str], answer: str) -> list[Step]:
        """A number that some operation gives is a step. Of several operations, first one on two numbers, not
        on one twice; then one without a number that is only meant, such as the 12 of a dozen; without one of
        the question that an earlier step has used; on the last result.

        A number of the question is its operand, and a result that is read again no new step. Where the model
        writes a number in several tokens, the first is read, and its whole value is the model's answer where
        that follows, else what follows.
        """
        steps: list[Step] = []
        given = {self.spelled(plain(one.value)) for one in numbers.in_text(question, loose=True)}
        for p, word in enumerate(readings):
            known = given | {self.spelled(one.follows) for one in steps}
            if p == 0 or not self.is_value(word) or word in known:
                continue
            ways = [way for way in self._ways(question, steps) if self.spelled(plain(way.value)) == word]
            if ways:
                value = min(
                    ways, key=lambda w: (plain(w.value) != answer, w.cost[0], plain(w.value) != word, *w.cost)
                ).value
                first, *more = [
                    way.operation for way in sorted(ways, key=lambda way: way.cost) if way.value == value
                ]
                said = plain(value)
                steps.append(Step(first, p, "", said, said, p, word, tuple(dict.fromkeys(more))))
        return steps

    def leads(self, question: str, chain: Sequence[Step], answer: str) -> bool:
        """Whether the answer is a result, or follows from what is at hand by one operation more."""
        found = {one.follows for one in chain}
        return answer in found or answer in {plain(way.value) for way in self._ways(question, chain)}

    def twin(self, question: str, chain: Sequence[Step], rng: np.random.Generator) -> Twin | None:
        """Another number of the question that the last of these steps comes from, computed anew."""
        step, found = chain[-1], self._changeable(question, chain)
        for i in rng.permutation(len(found)).tolist():
            for value in self._near(found[i], rng):
                follows = self._anew(chain, found[i].value, value)
                said = numbers.written_like(value, found[i].text)
                if said is not None and step.operation in follows:
                    return Twin(f"{question[: found[i].start]}{said}{question[found[i].end :]}", follows)
        return None

    def restarted(self, question: str, rng: np.random.Generator) -> str | None:
        """The question with another number in the place of one that it writes once."""
        for one in self._changeable(question, ()):
            for value in self._near(one, rng):
                if (said := numbers.written_like(value, one.text)) is not None:
                    return f"{question[: one.start]}{said}{question[one.end :]}"
        return None

    def _ways(self, question: str, chain: Sequence[Step]) -> Iterator[_Way]:
        """Every operation on two numbers at hand that gives a positive number of no more than cents."""
        results = [Fraction(one.follows) for one in chain]
        written = {one.value for one in numbers.in_text(question, loose=True)}
        meant = {
            Fraction(n) for n, said in MEANT.items() if re.search(rf"\b(?:{said})\b", question, re.I)
        } - written
        pool = dict.fromkeys([*reversed(results), *sorted(written), *sorted(meant)])
        used = {one for step in chain for one in _operands(step.operation)} - {*results}
        signs = "+-*/%" if PERCENT.search(question) else "+-*/"
        for a in pool:
            for b in pool:
                for sign in signs:
                    idle = (
                        (sign in "+*" and a > b) or (sign in "*/" and 1 in (a, b)) or (sign == "/" and not b)
                    )
                    if idle or (a in meant and b in meant) or (sign == "%" and a > 100):
                        continue
                    value = COMPUTE[sign](a, b)
                    if value > 0 and (value * 100).denominator == 1:
                        late = bool(results) and results[-1] not in (a, b)
                        cost = (a == b, bool(meant & {a, b}), bool(used & {a, b}), late)
                        yield _Way(f"{plain(a)}{sign}{plain(b)}", value, cost)

    def _changeable(self, question: str, chain: Sequence[Step]) -> list[Found]:
        """Numbers that the question writes once, and that the last step comes from; without steps, any."""
        once = Counter(one.value for one in numbers.in_text(question, loose=True))
        results, needed = {Fraction(one.follows) for one in chain}, set[Fraction]()
        for step in reversed(chain):
            if step is chain[-1] or Fraction(step.follows) in needed:
                needed |= {*_operands(step.operation)}
        return [
            one
            for one in numbers.in_text(question)
            if one.value > 1
            and once[one.value] == 1
            and one.value not in results
            and (not chain or one.value in needed)
        ]

    def _near(self, one: Found, rng: np.random.Generator) -> list[Fraction]:
        """Other numbers about as large, in random order."""
        unit = Fraction(1, 10 ** len(one.text.partition(".")[2]))
        size = next((s for s in (100, 10, 5) if unit == 1 and one.value % s == 0 and one.value > s), unit)
        found = [one.value + k * size for k in range(-NEAR, NEAR + 1) if k and one.value + k * size > 1]
        return [found[i] for i in rng.permutation(len(found))]

    def _anew(self, chain: Sequence[Step], old: Fraction, new: Fraction) -> dict[str, str]:
        """By operation that may be the last step's, what it gives with another number, where that is read as
        another word.
        """
        values, step = {old: new}, chain[-1]
        for one in chain[:-1]:
            result = _computed(one.operation, values)
            if result is None or not sensible(Fraction(one.follows), result):
                return {}
            values[Fraction(one.follows)] = result
        found = {}
        for operation in (step.operation, *step.others):
            result = _computed(operation, values)
            fine = result is not None and sensible(Fraction(step.follows), result)
            if fine and result is not None and self.spelled(plain(result)) != step.word:
                found[operation] = plain(result)
        return found


def are_sums(questions: Sequence[str], answers: Sequence[str | None]) -> bool:
    """Whether these are word problems: nearly all ask with two numbers or more, and are answered by one."""
    asked = [len(numbers.in_text(question)) >= 2 for question in questions]
    told = [numbers.answer(answer) is not None for answer in answers]
    return bool(asked) and min(sum(asked), sum(told)) >= TWO_NUMBERS * len(asked)


def _operands(operation: str) -> tuple[Fraction, Fraction]:
    match = WRITTEN.fullmatch(operation)
    assert match is not None
    return Fraction(match["a"]), Fraction(match["b"])


def _computed(operation: str, values: Mapping[Fraction, Fraction]) -> Fraction | None:
    """What an operation gives with numbers replaced; None: a division by zero."""
    match = WRITTEN.fullmatch(operation)
    assert match is not None
    a, b = (values.get(one, one) for one in _operands(operation))
    return None if match["sign"] == "/" and not b else COMPUTE[match["sign"]](a, b)
