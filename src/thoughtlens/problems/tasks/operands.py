"""Twins of word problems whose chain is annotated, `<<3*4=12>>`: one operand of the question changes.

The operand stands once in the question, in digits or as a word. The chain is computed anew with it, every
number that depends on it is replaced in the solution, and the annotations of the new solution are computed
again to see that they hold. Where it is not certain which numbers of the chain depend on the operand, there
is no twin: a number that can be an earlier result or a constant, a word (`half`, `dozen`, `percent`) that may
mean it, a comparison. What the sentences mean is not read: "four people: Ann, Bo, Cy and Di" may be three.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

from thoughtlens.core import DataError
from thoughtlens.problems.tasks import numbers
from thoughtlens.problems.tasks.gsm8k import ANNOTATION
from thoughtlens.problems.tasks.numbers import Found

MEANT = {
    2: "half|halves|halved|twice|double\\w*|doubling|pair|pairs|couple|both|second|another",
    3: "third|thirds|triple\\w*|tripling|thrice",
    4: "quarter|quarters|fourth|fourths|quadruple\\w*|season\\w*",
    5: "fifth|fifths|nickel\\w*|weekday\\w*",
    6: "sixth|sixths",
    7: "seventh|week|weeks|weekly",
    8: "eighth|eighths",
    10: "tenth|tenths|dime|dimes|decade|decades",
    12: "dozen|dozens|month|months|monthly|year|years|yearly|annual\\w*|foot|feet|inch|inches|noon|midnight",
    16: "ounce|ounces|pound|pounds",
    20: "score",
    24: "day|days|daily",
    25: "quarter|quarters",
    30: "month|months|monthly",
    31: "month|months",
    36: "yard|yards",
    50: "half",
    52: "year|years|yearly|week|weeks",
    60: "hour|hours|hourly|minute|minutes|second|seconds",
    100: "percent\\w*|cent|cents|dollar|dollars|meter|meters|hundred|hundreds|century",
    365: "year|years|daily",
    1000: "thousand|thousands|kilo\\w*|gram|grams|ml",
}
"""Words that may mean a number that is not written."""
CONSTANTS = frozenset({0, 1, *MEANT})
"""Results that are also read as constants: a chain may write such a number for another reason."""
TRIES = 40
"""New values that are tried for an operand, near the old one."""

NO_CHAIN = "the chain is not annotated"
NOT_ARITHMETIC = "an annotation is not arithmetic with +, -, *, / and brackets"
DOES_NOT_COMPUTE = "an annotation does not give the number that it says"
OTHER_ANSWER = "the answer is not the chain's last result"
NO_OPERAND = "no number of the chain stands once in the question, as a plain number above one"
UNCERTAIN = "it is not certain which numbers of the chain depend on the operand"
NO_VALUE = "no other value keeps results whole and positive where they were, and changes the answer"
Operation = Callable[[Fraction, Fraction], Fraction]
OPERATIONS: dict[type, Operation] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
IN_CHAIN = re.compile(numbers.DIGITS)
WITH_RESULT = re.compile(rf"{ANNOTATION.pattern}\s*(?:{numbers.DIGITS})?")
EQUALS = re.compile(rf"=\s*\$?\s*({numbers.DIGITS})")
"""A result in a sentence, without an annotation."""
CHOSEN = re.compile(
    r"[<>≤≥]|\b(?:(?:cheap|low|high|larg|small|great|old|young|tall|fast|slow|long|short|few|clos|near)est|"
    r"max(?:imum)?|min(?:imum)?|round(?:ed|ing)?|whichever)\b",
    re.I,
)
"""A choice among numbers, which no annotation says."""


class NoTwin(DataError):
    """Why a problem has no twin."""


def compute(expression: str) -> Fraction:
    """The value of an expression of numbers with +, -, *, / and brackets, exactly.

    Raises:
        NoTwin: something else, or a division by zero.
    """
    try:
        text = re.sub(r"(?<![\d.])0+(?=\d)", "", expression.replace(",", "").replace("$", "").strip())
        return _value(ast.parse(text, mode="eval").body, text)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        raise NoTwin(NOT_ARITHMETIC) from None


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.BinOp(left, op, right) if type(op) in OPERATIONS:
            return OPERATIONS[type(op)](_value(left, text), _value(right, text))
        case ast.UnaryOp(ast.USub(), inner):
            return -_value(inner, text)
        case ast.Constant(int() | float()):
            return Fraction(ast.get_source_segment(text, node) or "")
    raise ValueError


class Step(NamedTuple):
    """An annotation: what is computed, and what comes out."""

    expression: str
    result: Fraction

    @property
    def literals(self) -> list[Fraction]:
        """The numbers that it computes with."""
        return [numbers.read(number) for number in IN_CHAIN.findall(self.expression)]


def chain(solution: str) -> list[Step]:
    """The annotations of a solution; each holds.

    Raises:
        NoTwin: there is none, or one does not hold.
    """
    found = ANNOTATION.findall(solution)
    if not found:
        raise NoTwin(NO_CHAIN)
    steps = []
    for expression, right in found:
        result = numbers.answer(right)
        if result is None:
            raise NoTwin(NOT_ARITHMETIC)
        if compute(expression) != result:
            raise NoTwin(DOES_NOT_COMPUTE)
        steps.append(Step(expression, result))
    return steps


class Twin(NamedTuple):
    """A problem with one operand changed."""

    question: str
    solution: str
    answer: str


def twins(question: str, solution: str, answer: str, rng: random.Random) -> Iterator[Twin]:
    """The problem with one operand changed, in every way that is tried, near values first.

    Raises:
        NoTwin: why there is none.
    """
    steps = chain(solution)
    if numbers.answer(answer) != steps[-1].result:
        raise NoTwin(OTHER_ANSWER)
    operands = _operands(question, steps)
    if not operands:
        raise NoTwin(NO_OPERAND)
    certain = [one for one in operands if _certain(one.value, question, solution, steps)]
    if not certain:
        raise NoTwin(UNCERTAIN)
    found = False
    for one in rng.sample(certain, len(certain)):
        for said, changed in _ways(one, question, steps, rng):
            found = True
            written = _rewritten(question, solution, one, said, changed)
            new = f"{question[: one.start]}{said}{question[one.end :]}"
            yield Twin(new, written, numbers.plain(chain(written)[-1].result))
    if not found:
        raise NoTwin(NO_VALUE)


def _operands(question: str, steps: list[Step]) -> list[Found]:
    """Numbers that the chain computes with, and that stand once in the question, on their own."""
    found, used = numbers.in_text(question), {value for step in steps for value in step.literals}
    once = Counter(one.value for one in numbers.in_text(question, loose=True))
    return [
        one
        for one in found
        if one.value > 1
        and one.value in used
        and once[one.value] == 1
        and not re.search(r"[/:]$", question[: one.start])
        and not re.match(r"[/:]\d|\s*(?:st|nd|rd|th)\b", question[one.end :])
    ]


def _certain(x: Fraction, question: str, solution: str, steps: list[Step]) -> bool:
    """Whether it is plain which numbers of the chain depend on an operand."""
    prose = WITH_RESULT.sub(" ", solution)
    told_without = {numbers.read(number) for number in EQUALS.findall(prose)}
    asked = {one.value for one in numbers.in_text(question, loose=True)}
    others, of_x = asked - {x}, _shares(x) | {x / 2, 2 * x}
    shares = {value for q in others for value in _shares(q)}

    def meant(value: Fraction) -> bool:
        words = MEANT.get(int(value)) if value.denominator == 1 else None
        return words is not None and re.search(rf"\b(?:{words})\b", f"{question} {prose}", re.I) is not None

    dependent, free, last = {x}, set[Fraction](), False
    for step in steps:
        for value in step.literals:
            if value in dependent and (value in others | free or (value != x and value in CONSTANTS)):
                return False
            elsewhere = value in told_without or value in of_x or not (value in shares or meant(value))
            if value not in dependent | asked | free and elsewhere:
                return False
        last = bool(dependent & {*step.literals})
        (dependent if last else free).add(step.result)
    chosen = CHOSEN.search(f"{question} {prose}")
    return last and not (chosen or meant(x) or x in {step.result for step in steps})


def _shares(value: Fraction) -> set[Fraction]:
    """What a percentage is computed with."""
    return {value / 100, 1 - value / 100, 1 + value / 100, 100 - value, 100 + value}


def _ways(
    operand: Found, question: str, steps: list[Step], rng: random.Random
) -> Iterator[tuple[str, dict[int, Step]]]:
    """New values of an operand in its form, with the steps that change."""
    taken = {one.value for one in numbers.in_text(question)} | {v for step in steps for v in step.literals}
    percent = re.match(r"\s*(?:%|percent)", question[operand.end :])
    for value in _near(operand, rng):
        said = numbers.written_like(value, operand.text)
        if said is None or value in taken or (percent and value > 100 >= operand.value):
            continue
        changed = _changed(operand.value, value, steps)
        if changed is not None:
            yield said, changed


def _near(operand: Found, rng: random.Random) -> Iterator[Fraction]:
    """Values as round as the operand, then any, of as many digits, near ones first."""
    x, unit = operand.value, Fraction(1, 10 ** len(operand.text.partition(".")[2]))
    size = next((s for s in (100, 10, 5) if x % s == 0 and x > s), 1)
    for step in dict.fromkeys((size * unit if unit == 1 else unit, unit)):
        for distance in range(1, TRIES // 2 + 1):
            for sign in rng.sample((-1, 1), 2):
                value = x + sign * distance * step
                if value > 1 and len(str(int(value))) == len(str(int(x))):
                    yield value


def _changed(old: Fraction, new: Fraction, steps: list[Step]) -> dict[int, Step] | None:
    """The steps that a new value changes, computed anew; None where a result is no longer a sensible one."""
    values, changed = {old: new}, dict[int, Step]()
    for i, step in enumerate(steps):
        if not values.keys() & {*step.literals}:
            continue
        expression = _replaced(step.expression, values)
        try:
            result = compute(expression)
        except NoTwin:
            return None
        if not sensible(step.result, result) or values.get(step.result, result) != result:
            return None
        values[step.result], changed[i] = result, Step(expression, result)
    last = changed.get(len(steps) - 1)
    return changed if last is not None and last.result != steps[-1].result else None


def sensible(old: Fraction, new: Fraction) -> bool:
    """Whether a result is whole where it was, has no more decimals than cents, and keeps its sign."""
    decimals = 1 if old.denominator == 1 else 100
    return (new > 0) == (old > 0) and (new < 0) == (old < 0) and (new * decimals).denominator == 1


def _replaced(text: str, values: Mapping[Fraction, Fraction]) -> str:
    def other(match: re.Match[str]) -> str:
        value = numbers.read(match[0])
        if value not in values:
            return match[0]
        return numbers.written_like(values[value], match[0]) or numbers.plain(values[value])

    return IN_CHAIN.sub(other, text)


def _rewritten(question: str, solution: str, operand: Found, said: str, changed: Mapping[int, Step]) -> str:
    """The solution with changed annotations, and the numbers of its sentences that stand for what changed.

    A result that is also another number of the problem changes beside its annotation only.
    """
    steps = chain(solution)
    fixed = {one.value for one in numbers.in_text(question)}
    fixed |= {v for i, step in enumerate(steps) for v in (step.result, *step.literals) if i not in changed}
    values = {steps[i].result: one.result for i, one in changed.items() if steps[i].result not in fixed}
    values[operand.value] = numbers.read(said)
    parts, done = [], 0
    for i, match in enumerate(ANNOTATION.finditer(solution)):
        parts.append(_replaced(solution[done : match.start()], values))
        done = match.end()
        if i not in changed:
            parts.append(match[0])
            continue
        result = numbers.written_like(changed[i].result, match[2]) or numbers.plain(changed[i].result)
        parts.append(f"<<{changed[i].expression}={result}>>")
        if again := IN_CHAIN.match(solution, done):
            parts.append(result)
            done = again.end()
    return "".join([*parts, _replaced(solution[done:], values)])
