"""Which thought moves which, as every page shows it."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Record
from thoughtlens.interventions import ALIKE, ROUTES, Handed, InfluenceOutcome, MoveRow
from thoughtlens.show.pages.run import Run

CHAINS = {
    "thoughts": "thoughts",
    "words": "the same model's chain of thought in words",
    "pause": "pause tokens",
}
PARTS = {
    "thought_out": "what it feeds back",
    "kv": "its keys and values",
    "all": "all it leaves behind",
    "thought_in": "what enters it",
    "resid": "its blocks' outputs",
}
"""A part of a thought, in words."""


@dataclass(frozen=True, kw_only=True)
class Matrix(Record):
    """One part of each thought edited, and what that does to each later one."""

    title: str
    edited: list[str]
    moved: list[str]
    values: list[list[float | None]]


@dataclass(frozen=True, kw_only=True)
class Moves(Record):
    """All matrices of a run, and what they amount to."""

    says: list[str]
    what: str
    """What the numbers are."""
    matrices: list[Matrix]


def moves_of(run: Run) -> InfluenceOutcome | None:
    """What the influence stage of a run found."""
    return run.outcome("influence", InfluenceOutcome)


def moves(outcome: InfluenceOutcome) -> Moves:
    """The matrices of the edit that says most: from twins, from other problems, or the mean."""
    edits = list(dict.fromkeys(row.edit for row in outcome.moves))
    edit = next((e for kind in ("patch", "ablate resample") for e in edits if e.startswith(kind)), edits[0])
    own = [row for row in outcome.moves if row.edit == edit]
    donors = any(row.carried is not None for row in own)
    shown = dict.fromkeys((row.chain, row.site, row.path) for row in own)
    chosen = [key for key in shown if key[2] == ("direct" if key[1] in ROUTES else "total")]
    what = (
        f"share of what distinguishes the donor ({edit}) that arrives; of the answer, how often it becomes "
        f"the donor's; blank where problem and donor hardly differ"
        if donors
        else f"change ({edit}) beyond a random one as large, in spreads of the state; of the answer KL, nats"
    )
    return Moves(says=says(outcome), what=what, matrices=[_matrix(own, key, donors) for key in chosen])


def says(outcome: InfluenceOutcome) -> list[str]:
    """How often each chain hands something on, in sentences."""
    found = []
    for name, handed in outcome.headline.items():
        chain = name.removeprefix("handed_on_")
        if not isinstance(handed, Handed) or chain == name:
            continue
        if handed.way is None or not handed.value:
            text = f"In {CHAINS[chain]}, nothing is handed on from one to another that comes to the answer"
        else:
            steps = zip(handed.way.split(" > ")[:-1], handed.sites, strict=True)
            told = ", ".join(f"{step} by {PARTS.get(site, site)}" for step, site in steps)
            n = int(handed.value)
            text = (
                f"In {CHAINS[chain]}, something is handed on {n} time{'s' if n > 1 else ''} and comes to the "
                f"answer: {handed.way} ({told})"
            )
        found.append(f"{text} (n = {handed.n or 0:,}).")
    return found


def _matrix(rows: list[MoveRow], key: tuple[str, str, str], donors: bool) -> Matrix:
    own = [row for row in rows if (row.chain, row.site, row.path) == key]
    edited = sorted({row.thought_idx for row in own})
    moved = sorted({row.to for row in own if row.to is not None})
    value = {
        (row.thought_idx, row.to): row.carried if donors else row.beyond_random
        for row in own
        if row.verdict != ALIKE
    }
    chain, site, path = key
    return Matrix(
        title=f"{chain}: {PARTS.get(site, site)}, {path}",
        edited=[str(p) for p in edited],
        moved=[*(str(p) for p in moved), "answer"],
        values=[[value.get((p, to)) for to in (*moved, None)] for p in edited],
    )
