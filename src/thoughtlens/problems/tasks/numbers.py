"""Numbers in the words of a problem: read, and written again in the same form."""

from __future__ import annotations

import re
from fractions import Fraction
from math import isfinite
from typing import NamedTuple

WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
IN_TEXT = re.compile(
    rf"(?<![\w.,])(?:{DIGITS})(?![\w]|[.,]\d)|(?<![\w-])(?:{'|'.join(WORDS)})(?![\w-])", re.I
)
LOOSE = re.compile(rf"{DIGITS}|\b(?:{'|'.join(WORDS)})\b", re.I)
ANSWER = re.compile(
    rf"(?P<sign>[-−]?)\s*[$€£]?\s*(?P<sign2>[-−]?)(?P<number>{DIGITS})(?P<power>e[+-]?\d+)?", re.I
)


class Found(NamedTuple):
    """A number in a text."""

    start: int
    end: int
    value: Fraction
    text: str


def in_text(text: str, *, loose: bool = False) -> list[Found]:
    """Numbers of a text in digits, and in words up to twenty; `loose`: also within words (two-thirds)."""
    pattern = LOOSE if loose else IN_TEXT
    return [Found(m.start(), m.end(), read(m[0]), m[0]) for m in pattern.finditer(text)]


def read(text: str) -> Fraction:
    """The value of a number in digits or in a word."""
    word = text.lower()
    return Fraction(WORDS.index(word)) if word in WORDS else Fraction(text.replace(",", ""))


def written_like(value: Fraction, text: str) -> str | None:
    """A number in the form of another one: a word, with commas, with as many decimals; None: it has none."""
    if text.lower() in WORDS:
        if value.denominator > 1 or not 0 <= value < len(WORDS):
            return None
        word = WORDS[int(value)]
        return word.capitalize() if text[0].isupper() else word
    decimals = len(text.partition(".")[2])
    if (value * 10**decimals).denominator > 1:
        return None
    said = (
        f"{float(value):,.{decimals}f}" if "," in text or value >= 10**15 else f"{float(value):.{decimals}f}"
    )
    return said.removeprefix("0") if text[0] == "." else said


def plain(value: Fraction) -> str:
    """A number in digits, no commas, without zeros at its end: what an answer column holds."""
    if value.denominator == 1:
        return str(value.numerator)
    said = f"{float(value):.12f}".rstrip("0")
    return said if Fraction(said) else f"{float(value):.30f}".rstrip("0")


def written(label: object) -> str:
    """A label as its value is written: 3.0 as 3."""
    is_number = isinstance(label, float) and isfinite(label)
    return plain(Fraction(str(label))) if is_number else str(label)


def answer(text: object) -> Fraction | None:
    """The number that an answer is: with commas, a sign, a currency or a unit; None: not one number.

    `1,026`, `$-3.50`, `-$3.50`, `12 apples`, `5%`, `1/2`, `1e+16`. What stands before `####` does not count.
    """
    if isinstance(text, bool) or text is None:
        return None
    said = str(text).rpartition("####")[2].strip().rstrip(".")
    if ratio := re.fullmatch(r"(-?\d+)\s*/\s*([1-9]\d*)", said):
        return Fraction(int(ratio[1]), int(ratio[2]))
    found = list(ANSWER.finditer(said))
    if len(found) != 1 or re.search(r"\w$", said[: found[0].start()]):
        return None
    one = found[0]
    value = Fraction(f"{one['number'].replace(',', '')}{one['power'] or ''}")
    return -value if one["sign"] or one["sign2"] else value
