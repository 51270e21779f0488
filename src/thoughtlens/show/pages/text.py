"""Numbers and foreign text as pages show them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from thoughtlens.core import Number
from thoughtlens.core import number as as_text

MARKS = {"\n": "↵", "\t": "⇥", "\r": "␍", "\u00ad": "<soft hyphen>"}
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~!])")
NONE = "–"


def number(value: float | None) -> str:
    """A number to three significant digits, counts in full."""
    return NONE if value is None or not math.isfinite(value) else as_text(value, 3)


def fixed(value: float | None, decimals: int = 3) -> str:
    """A number with this many decimals; never minus zero."""
    return (
        NONE if value is None or not math.isfinite(value) else f"{round(value, decimals) + 0.0:,.{decimals}f}"
    )


def percent(value: float | None, decimals: int = 1) -> str:
    """A share as a percentage."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.{decimals}%}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points."""
    return NONE if value is None else f"{100 * value:+.1f}"


def between(low: float | None, high: float | None, show: Callable[[float], str] = fixed) -> str:
    """An interval, not broken over lines."""
    return NONE if low is None or high is None else f"[{show(low)},\u00a0{show(high)}]"


def share(found: Number | None) -> str:
    """A share with its interval."""
    if found is None or found.value is None:
        return NONE
    return f"{percent(found.value)} {between(found.low, found.high, percent)}"


def counts(values: Iterable[int | None]) -> str:
    """One n, or the least and the largest of several."""
    known = sorted({value for value in values if value is not None})
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}" if known else NONE


def p_text(p: float | None) -> str:
    """A p-value."""
    return NONE if p is None or not math.isfinite(p) else "<\u00a00.001" if p < 0.001 else f"{p:.3f}"


def at_thought(site: str | None, thought: int | None, fed_back: bool = True) -> str:
    """Where a site stands to the thought that its index counts, and to the one that wrote or reads it."""
    if thought is None:
        return "all thoughts"
    if site == "thought_in":
        wrote = f" = what thought {thought - 1} wrote" if thought > 0 and fed_back else ""
        return f"enters thought {thought}{wrote}"
    if site == "thought_out":
        return f"what thought {thought} wrote" + (f" = enters thought {thought + 1}" if fed_back else "")
    return f"in thought {thought}"


def visible(text: str) -> str:
    """Text from outside with what cannot be seen made visible, so that it neither breaks nor turns a line."""
    return "".join(MARKS.get(char) or _safe(char) for char in text)


def shorten(text: str, n: int = 300) -> str:
    """At most n characters of a text."""
    return text if len(text) <= n else text[: n - 1] + "…"


def _safe(char: str) -> str:
    category = unicodedata.category(char)
    invisible = category in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and char != "\u200d"
    return f"<U+{ord(char):04X}>" if invisible else char


def markdown(text: Any) -> str:
    """Text without meaning to Markdown, on one line."""
    return MARKDOWN.sub(r"\\\1", visible(str(text)))
