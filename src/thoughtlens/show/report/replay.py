"""The section on the first study's pipeline, replayed and then corrected one choice at a time."""

from __future__ import annotations

from operator import itemgetter

from thoughtlens.evals import ClassReport, Line, ReplayOutcome, SAEMeasures
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import between, fixed, number, p_text, percent, points
from thoughtlens.show.report.blocks import Column, Section, Table, Text, through, under, verdict_of

SIDES = {"better": "SAE higher", "worse": "SAE lower"}


def replay(run: Run) -> Section | None:
    """Two pipelines side by side, and what lies between them."""
    outcome = run.outcome("replay", ReplayOutcome)
    if outcome is None:
        return None
    first, last = outcome.ladder[0], outcome.ladder[-1]
    text = (
        f"The first study of CODI's thoughts, step by step, on this run's model: {outcome.n_problems:,} "
        f"problems in {outcome.n_groups:,} groups, hooks {', '.join(outcome.hook_names)}. As it was, SAE "
        f"minus raw is {points(first.difference)} points; with every choice corrected it is "
        f"{points(last.difference)} points {between(last.low, last.high, points)}. Each line below changes "
        f"one thing and keeps the changes above it. Labels of {outcome.labels_differ:,} problems differ "
        f"between the two ways of labelling, {outcome.unlabelled:,} have none in the second."
    )
    blocks = [Text(text), _ladder(outcome.ladder), _sae(outcome.sae), _classes(outcome.per_class)]
    return Section("replay", "The first study, replayed", blocks)


def _ladder(ladder: list[Line]) -> Table:
    columns: list[Column] = [
        under(Line, "change", str),
        under(Line, "what", str),
        ("raw", lambda line: f"{percent(line.raw)} {between(line.raw_low, line.raw_high, percent)}"),
        ("SAE", lambda line: f"{percent(line.sae)} {between(line.sae_low, line.sae_high, percent)}"),
        ("SAE - raw (points)", lambda line: points(line.difference)),
        ("95 % interval", lambda line: between(line.low, line.high, points)),
        ("p, Holm", lambda line: p_text(line.p_holm)),
        ("moved by", lambda line: points(line.moved)),
        under(Line, "n", number),
        ("reading", _side),
    ]
    note = (
        "The order of changes is part of what each one moves. Where the arms were tested on different "
        "problems there is no paired interval; a side is named only where the interval does not hold 0 and "
        "p, adjusted for the number of lines, is at most 0.05."
    )
    title = "One change at a time, each on top of those above"
    return Table.of(title, ladder, columns, note=note, n_words=2)


def _sae(both: dict[str, SAEMeasures]) -> Table:
    was, now = both["as it was"], both["corrected"]
    rows = [
        ("measured on", was.measured_on, now.measured_on),
        ("rows", number(was.rows), number(now.rows)),
        ("mean squared error", number(was.mse), number(now.mse)),
        ("explained variance, of residuals", percent(was.explained_variance_of_residuals), ""),
        ("explained variance", "", percent(now.explained_variance)),
        ("latents a vector", fixed(was.l0, 1), fixed(now.l0, 1)),
        (
            "latents that never fire",
            f"{was.dead:,} of {was.d_sae:,}",
            f"{now.dead:,} of {now.d_sae:,}",
        ),
    ]
    return Table("The SAE, as it was measured and held out", ("", "as it was", "corrected"), rows)


def _classes(both: dict[str, list[ClassReport]]) -> Table:
    rows = [(which, report) for which, reports in both.items() for report in reports]
    columns: list[Column] = [
        ("protocol", itemgetter(0)),
        *through(
            itemgetter(1),
            [
                under(ClassReport, "name", str),
                under(ClassReport, "precision", percent),
                under(ClassReport, "recall", percent),
                under(ClassReport, "f1", lambda f1: fixed(f1, 2)),
                under(ClassReport, "n", number),
            ],
        ),
    ]
    return Table.of("Each class from SAE latents", rows, columns, n_words=2)


def _side(line: Line) -> str:
    if line.low is None:
        return f"not paired: {line.n_tested_by_both} of {line.n} tested by both"
    word = verdict_of(line)
    return SIDES.get(word, word)
