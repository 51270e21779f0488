"""The section on who moves whom: which thought each later one, and the answer, follows."""

from __future__ import annotations

from thoughtlens.interventions import MoveRow
from thoughtlens.show.pages import plots
from thoughtlens.show.pages.moves import PARTS, moves, moves_of
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import between, fixed, number, percent
from thoughtlens.show.report.blocks import Column, Picture, Section, Table, Text, under

N_SHOWN = 40
"""Moves listed."""


def who_moves_whom(run: Run) -> Section | None:
    """The matrices, and the strongest direct moves beside their controls."""
    outcome = moves_of(run)
    if outcome is None:
        return None
    found = moves(outcome)
    caption = f"{found.what[0].upper()}{found.what[1:]}, n = {outcome.n:,}, split {outcome.split}. Rows: the "
    caption += "thought that is edited. Direct: the thoughts between are held as they were."
    figure = Picture("influence", plots.move_map(found.matrices), caption)
    blocks = [*(Text(line) for line in found.says), figure, _strongest(outcome.moves)]
    return Section("influence", "Who moves whom", blocks)


def _strongest(rows: list[MoveRow]) -> Table:
    columns: list[Column] = [
        under(MoveRow, "chain", str),
        under(MoveRow, "edit", str),
        ("edited", lambda row: f"{row.thought_idx}: {PARTS.get(row.site, row.site)}"),
        ("moved", lambda row: row.target),
        under(MoveRow, "verdict", str),
        ("carried", lambda row: percent(row.carried)),
        ("95 % interval", lambda row: between(row.carried_low, row.carried_high, percent)),
        ("random", lambda row: percent(row.carried_random)),
        ("change (spreads)", lambda row: fixed(row.change)),
        ("random change", lambda row: fixed(row.change_random)),
        under(MoveRow, "kl", number),
        ("reading follows", lambda row: percent(row.reading_follows)),
        under(MoveRow, "n", number),
    ]
    direct = [row for row in rows if row.path == "direct" and row.site in PARTS and row.site != "all"]
    shown = sorted(direct, key=lambda row: -(row.beyond_random if row.carried is None else row.carried))
    note = f"The first {min(N_SHOWN, len(shown))} of {len(shown):,}; all of them in influence/moves.parquet."
    return Table.of("The strongest direct moves", shown[:N_SHOWN], columns, note=note, n_words=5)
