"""The section on the circuit: which thought makes which, and what is left when edges are cut."""

from __future__ import annotations

from thoughtlens.show.pages import plots
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import NONE, between, fixed, number, percent, share
from thoughtlens.show.report.blocks import Column, Picture, Section, Table, Text, under
from thoughtlens.tracing import CircuitOutcome, Cut, EdgeRow


def circuit(run: Run) -> Section | None:
    """The graph, how it was put to the test, and its edges."""
    outcome = run.outcome("circuit", CircuitOutcome)
    if outcome is None:
        return None
    caption = (
        f"Ways from the question to the answer, n = {outcome.n:,} problems of {outcome.n_steps} steps, split "
        f"{outcome.split}. Dark: by the state that is fed back. Coloured arcs: by keys and values, a colour "
        "for each block. As thick as the largest share of the answer's change that flows there, of any "
        "variable."
    )
    figure = Picture("circuit", plots.circuit_map(outcome.nodes, outcome.edges), caption)
    cuts: list[Column] = [
        ("what is done", lambda row: row.about),
        under(Cut, "n_edges", number),
        ("right answers", lambda row: share(row.accuracy)),
    ]
    edges: list[Column] = [
        under(EdgeRow, "variable", str),
        under(EdgeRow, "source", str),
        under(EdgeRow, "target", str),
        under(EdgeRow, "route", str),
        ("does", lambda row: row.does or NONE),
        ("effect", lambda row: percent(row.effect)),
        ("95 % interval", lambda row: between(row.low, row.high, percent)),
        ("random", lambda row: percent(row.at_random)),
        ("by the slope", lambda row: percent(row.attribution)),
        ("flow", lambda row: percent(row.flow)),
        ("q", lambda row: fixed(row.q)),
        ("shown again", lambda row: percent(row.stability, 0)),
    ]
    shown = sorted(outcome.edges, key=lambda row: (row.variable, -row.flow))
    return Section(
        "circuit",
        "Which thought makes which",
        [
            Text(_in_words(outcome)),
            figure,
            Table.of("The graph put to the test", outcome.cuts, cuts, open=True),
            Table.of("Edges that are shown", shown, edges, n_words=4),
        ],
    )


def _in_words(outcome: CircuitOutcome) -> str:
    """The outcome in sentences."""
    own, *controls = outcome.arms
    right = {cut.name: percent(cut.accuracy.value) for cut in outcome.cuts}
    n_best = next(cut.n_edges for cut in outcome.cuts if cut.name == "cut best")
    text = (
        f"{own.n_tried:,} edges were tried, each by putting in there, and nowhere else, what a twin's run "
        f"has; {own.n_shown:,} are shown."
    )
    if n_best and outcome.cuts[0].accuracy.value is not None:
        text += (
            f" With the {n_best} best edges cut {right['cut best']} of the answers are right, with as many "
            f"others cut {right['cut matched']}, untouched {right['untouched']}."
        )
    said = {
        "pause": lambda arm: f"With pause tokens {arm.n_state:,} edges go through a state.",
        "shuffled": lambda arm: f"Looked for in another problem's change, {arm.n_shown:,} edges are shown.",
    }
    return " ".join([text, *(said[arm.name](arm) for arm in controls)])
