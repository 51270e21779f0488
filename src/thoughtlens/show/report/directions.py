"""The report of a run of directions: what its stages call latents are ends of directions there."""

from __future__ import annotations

import re
from dataclasses import replace

from matplotlib.text import Text as Label

from thoughtlens.latents import DirectionsOutcome
from thoughtlens.show.report.blocks import Block, Latents, Picture, Points, Section, Table, Text

WORD = re.compile(r"“[^”]*”|\b([Ll])atent(s?)\b(?!\.\w)")
"""The word, not in a question that is quoted, and not in the name of a file."""
OF_SAES = ("L0", "live", "everywhere")
"""Columns that say nothing of directions."""
NUMBERED = re.compile(r"^(?:.* · l|L)atent (\d+)$")
"""A title that is a latent's number."""


def said_as_ends(text: str) -> str:
    """The same with "end" for "latent"."""
    return WORD.sub(lambda m: f"{'E' if m[1] == 'L' else 'e'}nd{m[2]}" if m[1] else m[0], text)


def as_directions(section: Section, of: DirectionsOutcome) -> Section:
    """A section in which ends have their direction's name."""
    blocks = [_block(one, of) for one in section.blocks]
    if section.id != "latents":
        return replace(section, blocks=blocks)
    about = Text(
        f"These are directions, and no SAE: {of.source}. A direction is active at its high end where the "
        f"projection lies above a threshold, at its low end where it lies below one; each end is examined by "
        f"itself."
    )
    return replace(section, title="Directions", blocks=[about, *blocks])


def _end(number: str, of: DirectionsOutcome) -> str:
    direction, low = divmod(int(number), 2)
    return f"{of.directions[direction].name}, {'low' if low else 'high'} end"


def _block(block: Block, of: DirectionsOutcome) -> Block:
    if isinstance(block, Text):
        return replace(block, text=said_as_ends(block.text))
    if isinstance(block, Points):
        lines = [said_as_ends(line) for line in block.lines]
        return replace(block, caption=said_as_ends(block.caption), lines=lines)
    found = replace(block, caption=said_as_ends(block.caption))
    if isinstance(found, Table):
        kept = [i for i, head in enumerate(found.columns) if head not in OF_SAES]
        ends = [i for i in kept if found.columns[i] == "latent"]
        rows = [
            [_end(row[i], of) if i in ends and row[i].isdigit() else row[i] for i in kept]
            for row in found.rows
        ]
        heads = [said_as_ends(found.columns[i]) for i in kept]
        return replace(found, columns=heads, rows=rows, note=said_as_ends(found.note))
    if isinstance(found, Latents):
        titles = [NUMBERED.sub(lambda m: _end(m[1], of), one.title) for one in found.items]
        items = [replace(one, title=title) for one, title in zip(found.items, titles, strict=True)]
        return replace(found, items=items)
    assert isinstance(found, Picture)
    for one in found.figure.findobj(Label):
        one.set_text(said_as_ends(NUMBERED.sub(lambda m: _end(m[1], of), one.get_text())))
    return found
