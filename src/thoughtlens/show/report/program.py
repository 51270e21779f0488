"""The section on the program: what thoughts compute, and how it fares against the model."""

from __future__ import annotations

from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import NONE, number, percent, share
from thoughtlens.show.report.blocks import Column, Section, Table, Text, under
from thoughtlens.tracing import ProgramOutcome, Variable


def program(run: Run) -> Section | None:
    """Where the variables are, every kind of question, and simpler programs."""
    outcome = run.outcome("program", ProgramOutcome)
    if outcome is None:
        return None
    title = "What the thoughts compute, as a program"
    if outcome.program is None:
        return Section("program", title, [Text(f"No program: {outcome.reason}.")])
    variables: list[Column] = [
        under(Variable, "name", str),
        ("place", _place),
        ("also in", lambda row: ", ".join(row.also)),
        ("values", lambda row: number(row.n_values)),
        ("named by", lambda row: row.named_by),
        ("twins that say so", lambda row: NONE if row.score is None else percent(row.score)),
    ]
    kinds: list[Column] = [
        ("what is done", lambda row: row.kind),
        ("same answer", lambda row: share(row.agrees)),
        ("wrong answers made", lambda row: number(row.n_errors)),
        ("of these foretold", lambda row: NONE if row.predicted is None else share(row.predicted)),
    ]
    others: list[Column] = [
        ("program", lambda row: row.about),
        ("untouched", lambda row: percent(row.untouched)),
        ("interchange", lambda row: percent(row.interchange)),
        ("errors", lambda row: NONE if row.errors is None else percent(row.errors)),
    ]
    return Section(
        "program",
        title,
        [
            Text(_in_words(outcome)),
            Table.of("Variables", outcome.variables, variables, n_words=3, open=True),
            Table.of("Program and model asked the same", outcome.grades, kinds, open=True),
            Table.of("Simpler programs", outcome.rivals, others),
        ],
    )


def _place(row: Variable) -> str:
    return row.named_by if row.route is None else f"{row.route} of thought {row.thought_idx}"


def _in_words(outcome: ProgramOutcome) -> str:
    swapped = share(outcome.headline["interchange"])
    cells = sum(step.n_cells for step in outcome.steps)
    return (
        f"program/{outcome.program} says what the thoughts compute on problems of {outcome.n_steps:,} steps, "
        f"with {cells:,} cells of its steps' tables, each filled by interventions on training problems. On "
        f"{outcome.n:,} problems of split {outcome.split} the model answers as the program does in {swapped} "
        f"where the value of a step is taken from another problem."
    )
