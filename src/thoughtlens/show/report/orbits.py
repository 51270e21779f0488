"""The section on how states move from thought to thought."""

from __future__ import annotations

from thoughtlens.latents import OrbitRow, OrbitsOutcome, RoundRow
from thoughtlens.show.pages import plots
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import fixed, number, percent, share
from thoughtlens.show.report.blocks import Block, Column, Picture, Section, Table, Text, under


def moves(run: Run) -> Section | None:
    """Steps, what is left to the end, and the orbits of some problems."""
    outcome = run.outcome("orbits", OrbitsOutcome)
    if outcome is None:
        return None
    blocks: list[Block] = [Text(_in_words(outcome))]
    caption = (
        "How far each thought moves the state (solid: median; band: quartiles over problems), how far it is "
        "from there to the end (dashed), and to another problem's state at the same thought (grey)."
    )
    blocks.append(Picture("steps", plots.steps(outcome.rounds), caption))
    drawn = run.table("orbits", "orbits.parquet", OrbitRow)
    if drawn:
        held = ", ".join(f"{hook} {percent(one)}" for hook, one in outcome.variance_shown.items())
        caption = (
            f"Orbits: one line per problem, on two principal components (share of variance: {held}). A ring "
            f"is the first thought, a point the last."
        )
        blocks.append(Picture("orbits", plots.orbits(drawn), caption))
    columns: list[Column] = [under(RoundRow, "hook_name", str), under(RoundRow, "thought_idx", str)]
    columns += [under(RoundRow, "n", number)]
    columns += [
        under(RoundRow, name, fixed)
        for name in ("norm", "step_norm", "step_ratio", "turn", "distance", "spread")
    ]
    blocks.append(Table.of("Steps from thought to thought", outcome.rounds, columns, n_words=2))
    return Section("orbits", "How states move from thought to thought", blocks)


def _in_words(outcome: OrbitsOutcome) -> str:
    rest = "; ".join(f"{share(one)} at {hook}" for hook, one in outcome.at_rest.items())
    return (
        f"{outcome.n:,} problems of the split {outcome.split} were followed. At rest, with a last step below "
        f"the limit, are {rest}. Distances to the end are to {outcome.end}. That states come to rest says "
        f"nothing of whether the model reasons in them."
    )
