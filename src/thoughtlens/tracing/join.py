"""From what is read at each thought to steps: which operation on which value gives what is read next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from thoughtlens.problems import Rule


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

    @property
    def holds(self) -> bool:
        """Whether what is read is what follows, or nothing is read."""
        return self.value is None or self.value == self.follows


def join(rule: Rule, question: str, readings: Sequence[str], answer: str) -> list[Step]:
    """The steps that the readings of one problem say, in the order of their thoughts.

    A reading that is an operation of the question opens a step; the first value that is read before the next
    one is its value, and the next step begins with it. Of the last step that is the answer, where its thought
    is not read as a value.

    Args:
        rule: How such problems are computed.
        question: The problem.
        readings: The word that each thought is read as; the first is that of begin-of-thought, which no step
            is made from.
        answer: What the model answered.
    """
    offered = set(rule.offers(question))
    opened = [
        p
        for p in range(1, len(readings))
        if readings[p] in offered and not (p > 1 and readings[p - 1] == readings[p])
    ]
    steps: list[Step] = []
    before = rule.start(question)
    for p, nth in pairwise([*opened, len(readings)]):
        between = [q for q in range(p + 1, nth) if rule.is_value(readings[q])]
        last = nth == len(readings)
        at = min(p + 1, len(readings) - 1) if last or not between else between[0]
        value = readings[at] if at > p and rule.is_value(readings[at]) else None
        if value is None and last:
            value = answer if rule.is_value(answer) else None
        follows = rule.apply(before, readings[p])
        steps.append(Step(readings[p], p, before, follows, value, at))
        before = follows if value is None else value
    return steps


def first_break(steps: Sequence[Step], answer: str, asked: int | None = None) -> int | None:
    """The step, from 1 on, at which the chain stops being what the answer follows from; None: it never does.

    That is the first step that is not confirmed by what is read, where a later value, or the answer, is not
    what follows; or, of `asked` steps, the first that is missing. One past the last where every value holds
    and the answer is another; 1 where there is no step.
    """
    confirmed = 0
    for i, step in enumerate(steps, 1):
        if not step.holds:
            return confirmed + 1
        if step.value is not None:
            confirmed = i
    if asked is not None and len(steps) < asked:
        return min(confirmed, len(steps)) + 1
    return None if steps and steps[-1].follows == answer else confirmed + 1
