"""Readings for people: on a terminal, and in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from thoughtlens.latents import NO_BETTER, UNKNOWN, placeless
from thoughtlens.tracing.records import MORE, NOT_USED, OTHER_WAY, USED, Reading, Strong, Thinking

COLOURS = {USED: "green", MORE: "yellow", OTHER_WAY: "yellow", NOT_USED: "red"}
Paint = Callable[[str, str], str]
"""A text in a colour: `dim`, `bold`, or one of `COLOURS`."""


def render(one: Thinking, paint: Paint = lambda text, _: text) -> str:
    """One question in lines: what each thought reads as, how sure, beside what other problems give it."""
    heads, rows = _cells(one)
    widths = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads) - 1)]

    def line(cells: Sequence[str]) -> str:
        return "  " + "  ".join([*map(str.ljust, cells[:-1], widths), cells[-1]])

    lines = [one.question, paint(line(heads).rstrip(), "dim")]
    for reading, cells in zip(one.thoughts, rows, strict=True):
        lines.append(_painted(reading, cells, line(cells).rstrip(), paint))
    lines.append(f"  {'answer'.ljust(widths[0])}  {paint(one.answer, 'bold')}")
    lines += [paint(f"  {note}", "dim") for note in _notes(one)]
    lines += [f"  WARNING: {text}" for text in one.warnings]
    return "\n".join(lines)


def page(several: Sequence[Thinking]) -> str:
    """The same as tables."""
    parts = []
    for one in several:
        heads, rows = _cells(one)
        body = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        notes = "".join(f"<div><small>{escape(note)}</small></div>" for note in (*_notes(one), *one.warnings))
        head = "".join(f"<th>{escape(name)}</th>" for name in heads)
        parts.append(
            f"<div>{escape(one.question)}</div><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<div>answer <b>{escape(one.answer)}</b></div>{notes}"
        )
    return "".join(parts)


def _cells(one: Thinking) -> tuple[list[str], list[list[str]]]:
    """Heads and rows; what no thought has is left out, but for the last column."""
    columns: dict[str, Callable[[Reading], str]] = {
        "": lambda row: "begin" if row.thought == 0 else f"thought {row.thought}",
        "reads": lambda row: row.reading or "(a space)",
        "sure": lambda row: f"{row.probability:6.1%}",
        "others": lambda row: "" if row.null is None else f"{row.null:6.1%}",
        "tested": lambda row: "" if row.tested is None else row.tested.verdict,
    }
    rows = {head: [cell(row) for row in one.thoughts] for head, cell in columns.items()}
    told = {head: cells for head, cells in rows.items() if any(cells)}
    told["latents"] = ["; ".join(map(_in_words, row.latents)) for row in one.thoughts]
    heads = [head for head in told if head != "latents" or any(told["latents"])]
    return [*heads, *([""] if "latents" not in heads else [])], [
        list(row) for row in zip(*told.values(), strict=True)
    ]


def _painted(row: Reading, cells: Sequence[str], line: str, paint: Paint) -> str:
    """Bold where the question decides what is read, dim where other problems read the same; the verdict."""
    said = cells[1]
    idle = row.null is not None and row.null > row.probability / 2
    line = line.replace(f"  {said}", f"  {paint(said, 'dim' if idle else 'bold')}", 1)
    verdict = row.tested.verdict if row.tested else ""
    return (
        line.replace(f"  {verdict}", f"  {paint(verdict, COLOURS[verdict])}", 1)
        if verdict in COLOURS
        else line
    )


def _notes(one: Thinking) -> list[str]:
    notes = [f"read by the {one.lens} lens, the model's own output side"]
    if one.n_others:
        notes.append(f"others: how sure of it the same thought of {one.n_others} other problems is (mean)")
    by = {row.tested.by for row in one.thoughts if row.tested}
    if "live" in by:
        notes.append("tested: with the thoughts of other problems in this one's place")
    elif by:
        notes.append(
            "tested: by what editing the thought does on the run's problems; --test tests this question"
        )
    return notes


def _in_words(latent: Strong) -> str:
    """What it is said to stand for and how far to trust that, if it tells more than chance; else its size."""
    if latent.says is None or latent.says == UNKNOWN or latent.verdict == NO_BETTER:
        return f"{latent.latent} ({latent.activation:.2g})"
    return f"{latent.latent}: {placeless(latent.says)}" + (f" [{latent.verdict}]" if latent.verdict else "")
