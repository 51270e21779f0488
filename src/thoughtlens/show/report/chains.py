"""The section on chains: what a problem's thoughts computed, and which steps held when tested."""

from __future__ import annotations

from operator import attrgetter

from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import NONE, fixed, number, percent, share
from thoughtlens.show.report.blocks import Column, Section, Table, Text, under
from thoughtlens.tracing import ChainRow, LensRow, PlaceRow, ThoughtRow, TraceOutcome

N_SHOWN = 12
"""Problems whose chains are shown."""


def chains(run: Run) -> Section | None:
    """Which steps were verified, beside the controls, where each acts, and some chains."""
    outcome = run.outcome("trace", TraceOutcome)
    if outcome is None:
        return None
    rows = [
        row for row in run.table("trace", "problems.parquet", ChainRow) if row.arm == outcome.arms[0].name
    ]
    blocks = [Text(_in_words(outcome)), _arms(outcome), _places(outcome), _thoughts(outcome)]
    blocks += [_lenses(outcome)] if outcome.lenses else []
    blocks += [_problems(rows)]
    return Section("trace", "The chain that the thoughts computed", blocks)


def _in_words(outcome: TraceOutcome) -> str:
    """The outcome in sentences."""
    own, controls = outcome.arms[0], outcome.arms[1:]
    asked = f"{outcome.n:,} problems of the split {outcome.split}"
    if outcome.rule is None or not own.n_steps:
        return f"The thoughts of {asked} were read, and no chain was found in them. " + " ".join(
            outcome.warnings
        )
    text = (
        f"In {asked}, the thoughts were read without looking at any label, joined to {own.n_steps:,} steps, "
        f"and every step was tested: with another operand in the question, what is read must follow; with "
        f"that run's thought put in, the answer must follow. {share(own.verified)} of the steps are verified"
    )
    if own.found_right is not None and own.found_right.value is not None:
        text += f"; of the problems answered right, {share(own.found_right)} have their whole chain verified"
    if own.precision is not None:
        text += f"; of the verified steps {share(own.precision)} are what the problem's labels say"
    most = max((arm.verified.value or 0 for arm in controls), default=None)
    if most is not None:
        text += (
            f". The same procedure on controls, where it must fail, verifies at most {percent(float(most))}"
        )
    return text + "."


def _arms(outcome: TraceOutcome) -> Table:
    labels = list(outcome.arms[0].labels)
    columns: list[Column] = [
        ("traced", attrgetter("about")),
        ("problems", lambda arm: number(arm.n)),
        ("verified", lambda arm: share(arm.verified)),
        ("precision", lambda arm: share(arm.precision)),
        ("recall", lambda arm: share(arm.recall)),
        *(
            (label, lambda arm, label=label: number(arm.labels[label]))
            for label in labels
            if label != "verified"
        ),
        ("right answers", lambda arm: share(arm.accuracy)),
    ]
    note = (
        "Verified: of the steps that the problems' labels have, where there are labels. Precision: of the "
        "verified steps, those whose operation and value are the labels'. The other labels count steps."
    )
    return Table.of("The trace beside its controls", outcome.arms, columns, note=note, open=True)


def _places(outcome: TraceOutcome) -> Table:
    columns: list[Column] = [
        under(PlaceRow, "step", str),
        under(PlaceRow, "thought_idx", str),
        under(PlaceRow, "route", str),
        under(PlaceRow, "n", number),
        ("what is read follows", lambda row: share(row.reading_follows)),
        ("the answer follows", lambda row: share(row.patched)),
        ("a random change as large", lambda row: share(row.patched_at_random)),
    ]
    note = (
        "Route: the way out of the thought on which the changed run was put in: of state, keys and values, "
        "and both, the one that brings its answer most often."
    )
    rows = [row for row in outcome.arms[0].places if row.n > 1]
    return Table.of("Where each step acts", rows, columns, note=note, n_words=3)


def _thoughts(outcome: TraceOutcome) -> Table:
    columns: list[Column] = [
        under(ThoughtRow, "thought_idx", str),
        ("an operation is read", lambda row: percent(row.is_operation)),
        ("a value is read", lambda row: percent(row.is_value)),
        ("probability", lambda row: fixed(row.probability)),
        ("of the others' thoughts", lambda row: fixed(row.null)),
        ("entropy (nats)", lambda row: fixed(row.entropy)),
        ("right answers when leaving here", lambda row: share(row.accuracy)),
    ]
    return Table.of("What each thought is read as", outcome.thoughts, columns)


def _lenses(outcome: TraceOutcome) -> Table:
    """What reads each thought, and what could have."""
    columns: list[Column] = [
        under(LensRow, "thought_idx", str),
        under(LensRow, "lens", str),
        under(LensRow, "hook_name", str),
        ("fitted to", lambda row: row.column or NONE),
        ("its word makes a step", lambda row: percent(row.makes_sense)),
        ("another problem's word does", lambda row: percent(row.null)),
        ("reads the thought", lambda row: "yes" if row.is_chosen else ""),
    ]
    note = (
        f"Chosen on {outcome.lenses[0].n:,} problems of other splits, without their labels. The model's own "
        "output side reads where nothing else is better; a probe is tried last, since it can find what the "
        "model itself does not read."
    )
    return Table.of("What reads each thought", outcome.lenses, columns, note=note, n_words=4)


def _problems(rows: list[ChainRow]) -> Table:
    """Problems whose chain breaks first, then the first ones."""
    shown = sorted(rows, key=lambda row: (row.breaks_at is None, row.is_right is not False))[:N_SHOWN]
    columns: list[Column] = [
        under(ChainRow, "problem_id", str),
        ("chain", lambda row: row.chain or "nothing is read"),
        under(ChainRow, "answer", str),
        ("right", lambda row: NONE if row.is_right is None else "yes" if row.is_right else "no"),
        under(ChainRow, "n_verified", number),
        ("breaks at step", lambda row: "" if row.breaks_at is None else str(row.breaks_at)),
        ("departs at step", lambda row: "" if row.departs_at is None else str(row.departs_at)),
    ]
    note = (
        f"Those whose chain breaks come first; all {len(rows):,} are in trace/problems.parquet. A chain "
        "is read as value, operation → next value. It departs where its operation is not the one that the "
        "question asks for."
    )
    return Table.of("Chains", shown, columns, note=note, n_words=3)
