"""Layer x thought strips: one number for every place of an SAE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thoughtlens.core import Record, read_rows
from thoughtlens.evals import ValidateOutcome
from thoughtlens.show.explorer.build import rounded
from thoughtlens.show.explorer.cells import Cells
from thoughtlens.show.explorer.rows import Cell, ReadRate
from thoughtlens.show.explorer.sources import Source, place
from thoughtlens.show.pages.interventions import by_twin, outcomes_of, strips_of, what_of

Place = tuple[str, int, float | None]
"""Row, thought, value."""


@dataclass(frozen=True, kw_only=True)
class Strip(Record):
    """Values [rows, thoughts], and whether these have a sign."""

    title: str
    note: str
    rows: list[str]
    thoughts: list[int]
    values: list[list[float | None]]
    signed: bool = False

    @classmethod
    def of(cls, title: str, note: str, places: Sequence[Place], signed: bool = False) -> Strip:
        """From single places; what is not among them is empty."""
        rows = list(dict.fromkeys(row for row, _, _ in places))
        thoughts = sorted({thought for _, thought, _ in places})
        known = {(row, thought): value for row, thought, value in places}
        values = [rounded(known.get((row, t)) for t in thoughts) for row in rows]
        return cls(title=title, note=note, rows=rows, thoughts=thoughts, values=values, signed=signed)


def strips(source: Source, cells: Cells | None) -> list[Strip]:
    """All strips of an SAE; none for text."""
    if not source.about.thoughts:
        return []
    return [*_reconstruction(source), *_peaks(source, cells), *_lenses(source), *_interventions(source)]


def _reconstruction(source: Source) -> list[Strip]:
    rows = [
        (row, row.hook_name, row.thought_idx)
        for row in source.rows("reconstruction", Cell)
        if row.reconstructor == "sae" and row.rows == "kept"
    ]
    known = [(row, hook or "", thought) for row, hook, thought in rows if thought is not None]
    if not known:
        return []
    validated = source.run.outcome("validate", ValidateOutcome)
    least = min(row.n for row, _, _ in known)
    where = f"n = {least:,} or more vectors per cell, split {validated.split if validated else 'unknown'}."
    return [
        Strip.of(
            "explained variance",
            f"explained variance of the SAE on the cell's rows, centred on their mean; {where}",
            [(hook, thought, row.explained_variance) for row, hook, thought in known],
        ),
        Strip.of(
            "L0",
            f"mean number of latents that fire on a vector of the cell; {where}",
            [(hook, thought, row.l0) for row, hook, thought in known],
        ),
    ]


def _peaks(source: Source, cells: Cells | None) -> list[Strip]:
    if cells is None:
        return []
    note = (
        f"live latents by the cell in which they fire most often, as a share of its vectors; split "
        f"{source.about.split}, n = {source.about.n_alive:,} latents."
    )
    return [Strip.of("latents' own place", note, cells.peaks())]


def _lenses(source: Source) -> list[Strip]:
    """Of the model: how often the strongest token of each lens is one of the problem's words."""
    file = place(source.run, "lens_summary")
    rows = [row for row in read_rows(file, ReadRate) if row.subset == "all"] if file.is_file() else []
    found = []
    for lens in dict.fromkeys(row.lens for row in rows):
        own = [row for row in rows if row.lens == lens]
        n, chance = min(row.n for row in own), max(row.null_high or 0.0 for row in own)
        note = (
            f"share of problems whose strongest token is this word of theirs; n = {n:,} or more a cell; with "
            f"shuffled words at most {chance:.1%} (95 % quantile of the worst cell)."
        )
        places = [(f"{row.hook_name}: {row.column}", row.thought_idx, row.rate) for row in own]
        found.append(Strip.of(f"{lens} lens", note, places))
    return found


def _interventions(source: Source) -> list[Strip]:
    """Of the model, not of the SAE: what editing each place does to the answers."""
    found = []
    for name, outcome in outcomes_of(source.run).items():
        about = f"intervention {name}, n = {outcome.n:,} problems, split {outcome.split}."
        for edit, places in strips_of(outcome).items():
            note = f"{what_of(outcome)}, {about}"
            found.append(Strip.of(edit.replace("_", " "), note, places, signed=not by_twin(outcome)))
    return found
