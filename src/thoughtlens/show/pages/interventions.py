"""What the interventions of a run found, as every page needs it."""

from __future__ import annotations

from dataclasses import replace

from thoughtlens.core import DataError, read_result
from thoughtlens.interventions import FOLDER, InterveneOutcome, found_in
from thoughtlens.show.pages.run import Run

EFFECTS = "effects"
"""The stage that makes several interventions."""


def outcomes_of(run: Run) -> dict[str, InterveneOutcome]:
    """Every intervention of the run by name; what the stage `effects` did, apart by kind of edit.

    Raises:
        DataError: something else lies there.
    """
    found: dict[str, InterveneOutcome] = {}
    for name, path in found_in(run.root).items():
        result = read_result(path)
        if result.get("stage") not in (FOLDER, EFFECTS):
            raise DataError(f"{path} is not an intervention; move it elsewhere")
        outcome = InterveneOutcome.from_json(result)
        kinds = dict.fromkeys(row.edit.partition("_")[0] for row in outcome.effects)
        if outcome.edit != EFFECTS:
            found[name] = outcome
            continue
        for kind in kinds:
            rows = [row for row in outcome.effects if row.edit.partition("_")[0] == kind]
            found[f"{name}_{kind}"] = replace(
                outcome, edit=kind, effects=rows, n=max(row.n for row in rows), warnings=[]
            )
    return found


def by_twin(outcome: InterveneOutcome) -> bool:
    """Whether an intervention's effect is how many answers became the twin's, not a change of accuracy."""
    return outcome.edit in ("patch", "route")


def what_of(outcome: InterveneOutcome) -> str:
    """What an intervention's strips show."""
    return "share of answers that became the twin's" if by_twin(outcome) else "change of accuracy"


def strips_of(outcome: InterveneOutcome) -> dict[str, list[tuple[str, int, float]]]:
    """By edit, the effect at each (layer, thought) that was edited alone."""
    values: dict[str, list[tuple[str, int, float]]] = {}
    for row in outcome.effects:
        if (
            row.control is None
            and row.thought_idx is not None
            and row.dose is None
            and row.rank is None
            and row.site
        ):
            layer = "" if row.layer is None else f" {row.layer}"
            effect = row.corrupted if by_twin(outcome) else row.difference
            values.setdefault(row.edit, []).append((row.site + layer, row.thought_idx, effect))
    return values
