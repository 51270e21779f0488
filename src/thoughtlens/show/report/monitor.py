"""The section on the monitor: what its two scores notice, beside what simpler scores do."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from thoughtlens.core import Number
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import NONE, between, fixed, number, p_text, percent, share
from thoughtlens.show.report.blocks import Block, Column, Section, Table, Text, under, verdict_of
from thoughtlens.tracing import Against, Detector, ErrorRow, MonitorOutcome, Truth


def monitored(run: Run) -> Section | None:
    """By truth: who notices it, differences, and errors by kind."""
    outcome = run.outcome("monitor", MonitorOutcome)
    if outcome is None:
        return None
    blocks: list[Block] = [Text(_in_words(outcome))]
    for truth in outcome.truths:
        blocks += _of(truth)
    return Section("monitor", "What the thoughts give away", blocks)


def _in_words(outcome: MonitorOutcome) -> str:
    """The outcome in sentences."""
    asked = f"{outcome.n:,} problems of the split {outcome.split}"
    if not outcome.truths:
        return f"In {asked}, there was nothing to notice. " + " ".join(outcome.warnings)
    text = (
        f"Two scores of the thoughts of {asked}: that they contradict the answer, and that they hold more "
        f"than its chain explains. Neither score is shown what there is to notice."
    )
    return " ".join([text, *(f"{truth.about.capitalize()}: {truth.says}." for truth in outcome.truths)])


def _of(truth: Truth) -> Iterator[Block]:
    yield Table.of(
        f"Who notices {truth.about}",
        truth.detectors,
        _columns(truth),
        note=f"{truth.n_positive:,} with something to notice, {truth.n_clean:,} clean; thresholds from "
        f"{truth.n_clean_thresholds:,} other clean problems. A score that was shown the labels saw those of "
        "the problems it was fitted on.",
        open=True,
        n_words=2,
    )
    if truth.against:
        columns: list[Column] = [
            ("score", attrgetter("score")),
            ("beside", attrgetter("rival")),
            ("AUROC, difference", lambda row: f"{row.difference.value:+.3f}"),
            ("95 % interval", lambda row: between(row.difference.low, row.difference.high)),
            ("p (Holm)", lambda row: p_text(row.difference.p_holm)),
            ("verdict", _verdict),
        ]
        yield Table.of(f"Scores beside rivals: {truth.about}", truth.against, columns, n_words=2)
    if truth.errors:
        told: list[Column] = [
            under(ErrorRow, "error", str),
            under(ErrorRow, "error_idx", number),
            under(ErrorRow, "n_tried", number),
            under(ErrorRow, "n", number),
            ("AUROC of the contradiction", lambda row: area(row.contradicts)),
            ("of the margin", lambda row: area(row.margin)),
        ]
        note = "Where fewer than ten answers broke, no area is given."
        yield Table.of("Answers broken, by way and thought", truth.errors, told, note=note)


def _verdict(row: Against) -> str:
    return verdict_of(row.difference)


def _columns(truth: Truth) -> list[Column]:
    rates = [alarm.rate for alarm in truth.detectors[0].alarms]

    def recall(k: int) -> Column:
        return (
            f"recall at {percent(rates[k], 0)} false alarms",
            lambda row: share(row.alarms[k].recall) if row.alarms else NONE,
        )

    def false(k: int) -> Column:
        return (
            f"false alarms there ({percent(rates[k], 0)})",
            lambda row: share(row.alarms[k].false_alarms) if row.alarms else NONE,
        )

    places = range(len(rates))
    return [
        under(Detector, "name", str),
        under(Detector, "about", str),
        ("AUROC", lambda row: area(row.auroc)),
        *(column for k in places for column in (recall(k), false(k))),
    ]


def area(found: Number | None) -> str:
    """An area with its interval."""
    if found is None or not isinstance(found.value, float):
        return NONE
    return f"{fixed(found.value)} {between(found.low, found.high)}"
