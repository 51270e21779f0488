"""What a step of reasoning is, for problems that can say it: an operation on a value gives the next value.

A rule knows how its problems are written and how they are computed. It never looks at a problem's labels:
what it is asked is what the question offers, what an operation makes of a value, and the same question with
one operand changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from thoughtlens.problems.tasks import arithmetic, patterns, words
from thoughtlens.problems.tasks.arithmetic import N_CHAINS, N_STEPS, QUESTION_LEN, Symbols

OPERATION = re.compile(r"[+\-*]\d+")
SIGNS = "+-*"


class Changed(NamedTuple):
    """A question in which one thing is another."""

    question: str
    now: str
    """What stands in the place of what was asked for: the other operation, or the other start value."""


@runtime_checkable
class Rule(Protocol):
    """How the steps of a kind of problem are written and computed; values and operations are words."""

    def start(self, question: str) -> str:
        """The value that the reasoning begins with."""
        ...

    def offers(self, question: str) -> Sequence[str]:
        """Every operation that the question writes."""
        ...

    def asked(self, question: str) -> int | None:
        """How many steps the question asks for; None where it does not say so."""
        ...

    def is_value(self, word: str) -> bool:
        """Whether a word that was read can be a value."""
        ...

    def apply(self, before: str, operation: str) -> str:
        """The value after an operation."""
        ...

    def change(self, question: str, operation: str, before: str, rng: np.random.Generator) -> Changed | None:
        """The question with another operand in this operation, so that `before` gives another value.

        None where the question does not write it exactly once.
        """
        ...

    def change_start(self, question: str, rng: np.random.Generator) -> Changed | None:
        """The question with another start value."""
        ...


class _Modular:
    """What the generated problems have in common: operations `+3`, `-5`, `*4` on numbers modulo p."""

    def __init__(self, p: int) -> None:
        self.symbols = Symbols(p)

    @property
    def p(self) -> int:
        """The modulus."""
        return self.symbols.p

    @cached_property
    def values(self) -> frozenset[str]:
        """Every number."""
        return frozenset(map(str, range(self.p)))

    def is_value(self, word: str) -> bool:
        """Whether a word is one of the numbers."""
        return word in self.values

    def apply(self, before: str, operation: str) -> str:
        """The number after an operation, modulo p."""
        x, a = int(before), int(operation[1:])
        return str({"+": x + a, "-": x - a, "*": x * a}[operation[0]] % self.p)

    def _other(
        self, operation: str, before: str, taken: Sequence[str], rng: np.random.Generator
    ) -> str | None:
        """Another operation, of the same kind where that changes what becomes of `before`."""
        now = self.apply(before, operation)
        for sign in (operation[0], *SIGNS):
            found = [f"{sign}{a}" for a in range(2 if sign == "*" else 1, self.p)]
            free = [one for one in found if one not in taken and self.apply(before, one) != now]
            if free:
                return free[int(rng.integers(len(free)))]
        return None

    def _other_value(self, value: str, rng: np.random.Generator) -> str:
        free = [str(v) for v in range(1, self.p) if str(v) != value]
        return free[int(rng.integers(len(free)))]


class ArithmeticRule(_Modular):
    """Steps of `problems.arithmetic`: `ann +3 *5 -2 bob *4 .. bob 7 twice`."""

    def start(self, question: str) -> str:
        """The number before the last word."""
        return question.split()[-2]

    def offers(self, question: str) -> list[str]:
        """The words that are operations."""
        return [word for word in question.split() if OPERATION.fullmatch(word)]

    def asked(self, question: str) -> int:
        """once, twice, thrice."""
        return arithmetic.STEP_WORDS.index(question.split()[-1]) + 1

    def change(self, question: str, operation: str, before: str, rng: np.random.Generator) -> Changed | None:
        """Another word in the operation's place."""
        said = question.split()
        other = self._other(operation, before, self.offers(question), rng)
        if said.count(operation) != 1 or other is None:
            return None
        return Changed(" ".join(other if word == operation else word for word in said), other)

    def change_start(self, question: str, rng: np.random.Generator) -> Changed:
        """Another number before the last word."""
        *chains, value, count = question.split()
        other = self._other_value(value, rng)
        return Changed(" ".join([*chains, other, count]), other)


class WordsRule(_Modular):
    """Steps of `problems.words`: the same told in sentences, an operation being a verb and a number."""

    @cached_property
    def _verbs(self) -> dict[tuple[str, ...], str]:
        """Every verb, word by word, and the sign of its operation."""
        return {
            tuple(verb): SIGNS[kind]
            for row in words.PHRASES.values()
            for kind, synonyms in enumerate(row)
            for verb in synonyms
        }

    def _written(self, question: str) -> tuple[dict[int, str], list[int]]:
        """Place of each operand and its operation; places of the numbers that no verb stands before."""
        said, found, bare = question.split(), {}, []
        longest = max(map(len, self._verbs))
        for i, word in enumerate(said):
            if word in self.values:
                before = (tuple(said[max(i - k, 0) : i]) for k in range(longest, 0, -1))
                sign = next((self._verbs[verb] for verb in before if verb in self._verbs), None)
                if sign is None:
                    bare.append(i)
                else:
                    found[i] = sign + word
        return found, bare

    def start(self, question: str) -> str:
        """The number that no verb stands before."""
        said = question.split()
        return said[self._written(question)[1][-1]]

    def offers(self, question: str) -> list[str]:
        """Verbs and operands as operations."""
        return list(self._written(question)[0].values())

    def asked(self, question: str) -> int:
        """one step, two steps, three steps."""
        return next(k for k, said in enumerate(patterns.STEP_WORDS, 1) if f" {said} " in f" {question} ")

    def change(self, question: str, operation: str, before: str, rng: np.random.Generator) -> Changed | None:
        """Another operand after the same verb; none where no operand makes a difference."""
        written = self._written(question)[0]
        at = [i for i, one in written.items() if one == operation]
        other = self._other(operation, before, list(written.values()), rng)
        if len(at) != 1 or other is None or other[0] != operation[0]:
            return None
        return self._with(question, at[0], other[1:], other)

    def change_start(self, question: str, rng: np.random.Generator) -> Changed:
        """Another number in the query."""
        at = self._written(question)[1][-1]
        other = self._other_value(question.split()[at], rng)
        return self._with(question, at, other, other)

    def _with(self, question: str, at: int, word: str, now: str) -> Changed:
        said = question.split()
        return Changed(" ".join([*said[:at], word, *said[at + 1 :]]), now)


def rule_of(questions: Sequence[str], modulus: int | None) -> Rule | None:
    """The rule by which problems are written, told from their words; None where none fits.

    Args:
        questions: The problems.
        modulus: How many numbers the model knows; None: as many as the generator's default has.
    """
    said = [question.split() for question in questions]
    heads = {word for own in said for word in own[: N_CHAINS * (1 + N_STEPS) : 1 + N_STEPS]}
    if {len(own) for own in said} == {QUESTION_LEN} and heads <= set(arithmetic.NAMES):
        return ArithmeticRule(modulus or arithmetic.P)
    p = modulus or words.P
    known = set(words.vocabulary(p))
    if all(word in known for own in said for word in own):
        rule = WordsRule(p)
        if all(len(rule.offers(question)) == N_CHAINS * N_STEPS for question in questions):
            return rule
    return None
