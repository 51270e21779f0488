"""What stages return: a dict as it stands in `result.json`, which notebooks show as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from thoughtlens.core.records.record import Number

CONTROL = "the states are those of a control, not of a model that thinks in vectors"


@dataclass(frozen=True)
class Line:
    """One number of a headline, as text."""

    name: str
    value: str
    interval: str
    """95 % interval, `low to high`; empty where there is none."""
    n: str
    split: str
    definition: str


def headline(result: Mapping[str, Any]) -> list[Line]:
    """The numbers of a stage's headline in their order; none where it has none."""
    definitions = result.get("definitions") or {}
    lines = [Line("control", result["control"], "", "", "", CONTROL)] if result.get("control") else []
    for name, entry in (result.get("headline") or {}).items():
        table = entry if isinstance(entry, Mapping) else {"value": entry}
        if "value" in table:
            low, high = table.get("low"), table.get("high")
            interval = f"{number(low)} to {number(high)}" if low is not None and high is not None else ""
            n, split = number(table.get("n")), str(table.get("split") or "")
            definition = str(definitions.get(name, ""))
            lines.append(Line(name, number(table["value"]), interval, n, split, definition))
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text of a table's rows, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def number(value: Any, digits: int = 4) -> str:
    """A number for people: `digits` significant digits, counts in full; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else str(value)
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(decimals, 0)}f}" if decimals <= digits + 3 else f"{value:.{digits - 1}e}"


class Result(dict):
    """A stage's or a run's `result.json`; shown in a notebook as its headline with n, split and interval.

    A number of the headline is also an attribute: `result.fvu_validation.value`, `.low`, `.high`, `.n`.
    """

    def __getattr__(self, name: str) -> Number:
        entry = (self.get("headline") or {}).get(name)
        if entry is None:
            known = ", ".join(self.get("headline") or ()) or "none"
            raise AttributeError(f"{self.get('stage', 'this result')} has no number {name!r}; it has {known}")
        return Number.from_json(entry if isinstance(entry, Mapping) else {"value": entry})

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(self.get("headline") or ())]

    def _repr_html_(self) -> str:
        parts = [
            f"<p><b>{escape(str(self.get('stage') or self.get('name') or 'result'))}</b>{self._about()}</p>"
        ]
        parts += [_table("", headline(self))]
        for name, stage in (self.get("stages") or {}).items():
            if isinstance(stage, Mapping):
                parts.append(_table(str(name), headline(stage)))
        if notes := self.get("warnings"):
            items = "".join(f"<li>{escape(str(note))}</li>" for note in notes)
            parts.append(f"<details><summary>{len(notes)} warnings</summary><ul>{items}</ul></details>")
        return "".join(parts)

    def _about(self) -> str:
        seconds = self.get("seconds")
        keys = f"{len(self)} keys: {', '.join(map(str, self))}"
        time = f", {number(float(seconds))} s" if isinstance(seconds, int | float) else ""
        return f"{time} <span title='{escape(keys, quote=True)}'>({len(self)} keys)</span>"


def _table(title: str, lines: list[Line]) -> str:
    if not lines:
        return ""
    rows = "".join(
        f"<tr><th title='{escape(line.definition, quote=True)}'>{escape(line.name)}</th>"
        + "".join(f"<td>{escape(text)}</td>" for text in (line.value, line.interval, line.n, line.split))
        + "</tr>"
        for line in lines
    )
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    head = "".join(f"<th>{name}</th>" for name in ("", "value", "95 % interval", "n", "split"))
    return f"<table>{caption}<tr>{head}</tr>{rows}</table>"
