"""What a step of reasoning is, for problems that can say it: an operation on values gives the next value.

A rule knows how its problems are written and how they are computed. It never looks at a problem's labels:
what it is asked is what the question offers and asks for, which steps some readings say, and the same
question with one operand changed.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from thoughtlens.problems.tasks import arithmetic, patterns, secret, words
from thoughtlens.problems.tasks.arithmetic import N_CHAINS, N_STEPS, Symbols

OPERATION = re.compile(r"[+\-*]\d+")
SIGNS = "+-*"
ORDER = {
    word: i
    for i, told in enumerate(("first initially", "then next", "finally lastly last"))
    for word in told.split()
}
"""Words of `problems.words` that say which of a person's operations the next one is."""
MODULI = {arithmetic.QUESTION_LEN: arithmetic.P, secret.QUESTION_LEN: secret.P}
"""Words of a question in operation tokens, and how many numbers its default has."""


class Step(NamedTuple):
    """One step that a problem's readings say."""

    operation: str
    read_at: int
    """The thought at which the operation is read."""
    before: str
    """The value that it is done to: the start value, or the one of the step before."""
    follows: str
    """What the operation makes of it."""
    value: str | None
    """What is read as its value; None: nothing that could be one."""
    value_at: int
    """The thought at which that is, or would be."""
    word: str | None = None
    """The word that the value is read from at this thought; None: it is none, or the answer's alone."""
    others: tuple[str, ...] = ()
    """Other operations that give the same value, where the question does not write which."""

    @property
    def holds(self) -> bool:
        """Whether what is read is what follows, or nothing is read."""
        return self.value is None or self.value == self.follows

    @property
    def is_partial(self) -> bool:
        """Whether only the beginning of the value is read, since the model writes it in several tokens."""
        return self.word is not None and self.word != self.value

    def __str__(self) -> str:
        read = f" (read as {self.word})" if self.is_partial else ""
        return f"{self.before} {self.operation} → {self.value or '?'}{read}".strip()


class Twin(NamedTuple):
    """A question in which one thing is another."""

    question: str
    follows: Mapping[str, str]
    """By operation, the value that the tested step has there."""


@runtime_checkable
class Rule(Protocol):
    """How the steps of a kind of problem are written and computed; values and operations are words."""

    def offers(self, question: str) -> Sequence[str]:
        """Every operation that the question writes."""
        ...

    def asked(self, question: str) -> int | None:
        """How many steps the question asks for; None where it does not say so."""
        ...

    def wanted(self, question: str) -> Sequence[str] | None:
        """The operations that the question asks for, in order; None where it does not say so plainly."""
        ...

    def is_value(self, word: str) -> bool:
        """Whether a word that was read can be a value."""
        ...

    def spelled(self, value: str) -> str:
        """The word that a value is read as."""
        ...

    def answer(self, question: str, text: str) -> str:
        """What a model answered, as a value is written."""
        ...

    def join(self, question: str, readings: Sequence[str], answer: str) -> list[Step]:
        """The steps that the readings of one problem say, in the order of their thoughts.

        Args:
            question: The problem.
            readings: The word that each thought is read as; the first is that of begin-of-thought, which no
                step is made from.
            answer: What the model answered.
        """
        ...

    def leads(self, question: str, chain: Sequence[Step], answer: str) -> bool:
        """Whether the answer follows from a chain."""
        ...

    def twin(self, question: str, chain: Sequence[Step], rng: np.random.Generator) -> Twin | None:
        """The question with another operand, so that the last of these steps has another value.

        None where there is none, as where the question does not write the operand exactly once.
        """
        ...

    def restarted(self, question: str, rng: np.random.Generator) -> str | None:
        """The question with another start value; None where it has none."""
        ...


@runtime_checkable
class Written(Rule, Protocol):
    """A rule whose questions write their start value and every operation plainly, so that either can be
    written anew; none of this computes anything."""

    def start(self, question: str) -> str:
        """The value that the reasoning begins with."""
        ...

    def with_start(self, question: str, value: str) -> str:
        """The question with this start value."""
        ...

    def with_operation(self, question: str, operation: str, other: str) -> str | None:
        """The question with another operation in the place of one; None where that cannot be written."""
        ...


def first_break(
    steps: Sequence[Step], answer: str, asked: int | None = None, wanted: Sequence[str] | None = None
) -> int | None:
    """The step, from 1 on, at which the chain stops being what the answer follows from; None: it never does.

    That is the first step that is not confirmed by what is read, where a later value, or the answer, is not
    what follows; or, of `asked` steps, the first that is missing; or of those `wanted` the first whose
    operation is another. One past the last where every value holds and the answer is another; 1 where there
    is no step.
    """
    departs = _departs(steps, wanted)
    confirmed = 0
    for i, step in enumerate(steps, 1):
        if i == departs or not step.holds:
            return departs if i == departs else confirmed + 1
        if step.value is not None:
            confirmed = i
    if asked is not None and len(steps) < asked:
        return min(confirmed, len(steps)) + 1
    return departs if steps and steps[-1].follows == answer else confirmed + 1


def _departs(steps: Sequence[Step], wanted: Sequence[str] | None) -> int | None:
    """The first step whose operation is not the one that is wanted in its place."""
    if wanted is None:
        return None
    said = [step.operation for step in steps]
    pairs = zip(said, [*wanted, *[None] * len(said)], strict=False)
    return next((i for i, (own, other) in enumerate(pairs, 1) if own != other), None)


class _Modular(ABC):
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

    def spelled(self, value: str) -> str:
        """A number is one word."""
        return value

    def answer(self, question: str, text: str) -> str:
        """The word that was answered."""
        del question
        return text.strip()

    @abstractmethod
    def start(self, question: str) -> str:
        """The value that the reasoning begins with."""

    @abstractmethod
    def offers(self, question: str) -> Sequence[str]:
        """Every operation that the question writes."""

    @abstractmethod
    def with_start(self, question: str, value: str) -> str:
        """The question with this start value."""

    @abstractmethod
    def with_operation(self, question: str, operation: str, other: str) -> str | None:
        """The question with another operation in the place of one.

        None where the question does not write it exactly once, or cannot write the other there.
        """

    def change(self, question: str, operation: str, before: str, rng: np.random.Generator) -> Twin | None:
        """The question with another operand in this operation, so that `before` gives another value.

        None where the question does not write it exactly once, or no operand makes a difference.
        """
        other = self._other(operation, before, self.offers(question), rng)
        new = None if other is None else self.with_operation(question, operation, other)
        return None if other is None or new is None else Twin(new, {operation: self.apply(before, other)})

    def change_start(self, question: str, rng: np.random.Generator) -> tuple[str, str]:
        """The question with another start value, and that value."""
        other = self._other_value(self.start(question), rng)
        return self.with_start(question, other), other

    def apply(self, before: str, operation: str) -> str:
        """The number after an operation, modulo p."""
        x, a = int(before), int(operation[1:])
        return str({"+": x + a, "-": x - a, "*": x * a}[operation[0]] % self.p)

    def join(self, question: str, readings: Sequence[str], answer: str) -> list[Step]:
        """A reading that is an operation of the question opens a step; the first value that is read before
        the next one is its value, and the next step begins with it.

        Of the last step that is the answer, where its thought is not read as a value.
        """
        offered = set(self.offers(question))
        opened = [
            p
            for p in range(1, len(readings))
            if readings[p] in offered and not (p > 1 and readings[p - 1] == readings[p])
        ]
        steps: list[Step] = []
        before = self.start(question)
        for p, nth in pairwise([*opened, len(readings)]):
            between = [q for q in range(p + 1, nth) if self.is_value(readings[q])]
            last = nth == len(readings)
            at = min(p + 1, len(readings) - 1) if last or not between else between[0]
            word = readings[at] if at > p and self.is_value(readings[at]) else None
            value = answer if word is None and last and self.is_value(answer) else word
            follows = self.apply(before, readings[p])
            steps.append(Step(readings[p], p, before, follows, value, at, word))
            before = follows if value is None else value
        return steps

    def leads(self, question: str, chain: Sequence[Step], answer: str) -> bool:
        """Whether it is what the last operation gives."""
        del question
        return bool(chain) and chain[-1].follows == answer

    def twin(self, question: str, chain: Sequence[Step], rng: np.random.Generator) -> Twin | None:
        """Another operand in the last operation; where none makes a difference, as to 0 that is multiplied,
        another start value.
        """
        step = chain[-1]
        changed = self.change(question, step.operation, step.before, rng)
        if changed is not None:
            return changed
        other, value = self.change_start(question, rng)
        for one in chain:
            value = self.apply(value, one.operation)
        return None if value == step.follows else Twin(other, {step.operation: value})

    def restarted(self, question: str, rng: np.random.Generator) -> str:
        """The question with another start value."""
        return self.change_start(question, rng)[0]

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
    """Steps of `problems.arithmetic`, `ann +3 *5 -2 bob *4 .. bob 7 twice`, and of the chain asked for in
    `problems.secret`."""

    def start(self, question: str) -> str:
        """The number before the last word."""
        return question.split()[-2]

    def offers(self, question: str) -> list[str]:
        """The words that are operations."""
        return [word for word in question.split() if OPERATION.fullmatch(word)]

    def asked(self, question: str) -> int:
        """once, twice, thrice."""
        return arithmetic.STEP_WORDS.index(question.split()[-1]) + 1

    def wanted(self, question: str) -> list[str]:
        """The first operations after the name before the last two words."""
        *chains, name, _, _ = question.split()
        at = chains.index(name) + 1
        return chains[at : at + self.asked(question)]

    def with_operation(self, question: str, operation: str, other: str) -> str | None:
        """Another word in the operation's place."""
        said = question.split()
        return _with(question, said.index(operation), other) if said.count(operation) == 1 else None

    def with_start(self, question: str, value: str) -> str:
        """Another number before the last word."""
        return _with(question, len(question.split()) - 2, value)


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

    def wanted(self, question: str) -> list[str] | None:
        """The operations told of the person whom the query names; what `first`, `then`, `finally` say is
        their order.
        """
        said, names = question.split(), set(words.NAMES)
        at = [i for i, word in enumerate(said) if word in names]
        told = [i for i in at[:-1] if said[i] == said[at[-1]]]
        if len(told) != 1:
            return None
        found, end = {}, at[at.index(told[0]) + 1]
        for i, operation in self._written(question)[0].items():
            if told[0] < i < end:
                order = next((ORDER[word] for word in said[i - 1 : told[0] : -1] if word in ORDER), None)
                # `first` may stand before the name
                found[0 if order is None else order] = operation
        return [found[k] for k in sorted(found)][: self.asked(question)] if len(found) == N_STEPS else None

    def with_operation(self, question: str, operation: str, other: str) -> str | None:
        """Another operand after the same verb."""
        at = [i for i, one in self._written(question)[0].items() if one == operation]
        return _with(question, at[0], other[1:]) if len(at) == 1 and other[0] == operation[0] else None

    def with_start(self, question: str, value: str) -> str:
        """Another number in the query."""
        return _with(question, self._written(question)[1][-1], value)


def _with(question: str, at: int, word: str) -> str:
    """The question with another word at a place."""
    said = question.split()
    return " ".join([*said[:at], word, *said[at + 1 :]])


def rule_of(questions: Sequence[str], modulus: int | None) -> Rule | None:
    """The rule by which generated problems are written, told from their words; None where none fits.

    Args:
        questions: The problems.
        modulus: How many numbers the model knows; None: as many as the generator's default has.
    """
    said = [question.split() for question in questions]
    heads = {word for own in said for word in own[: N_CHAINS * (1 + N_STEPS) : 1 + N_STEPS]}
    lengths = {len(own) for own in said}
    if len(lengths) == 1 and lengths <= set(MODULI) and heads <= set(arithmetic.NAMES):
        return ArithmeticRule(modulus or MODULI[lengths.pop()])
    p = modulus or words.P
    known = set(words.vocabulary(p))
    if all(word in known for own in said for word in own):
        rule = WordsRule(p)
        if all(len(rule.offers(question)) == N_CHAINS * N_STEPS for question in questions):
            return rule
    return None
