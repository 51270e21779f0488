"""The section on an SAE that was trained further on what the model loses, beside as much squared error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thoughtlens.core import Number
from thoughtlens.evals import ARMS, FinetuneArm, FinetuneCost, FinetuneGain, FinetuneOutcome
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import between, fixed, number, p_text, percent, points
from thoughtlens.show.report.blocks import Block, Column, Section, Table, Text, under, verdict_of

GAINS = {
    "kl": "KL: nats less",
    "delta_ce": "cross-entropy: nats less",
    "accuracy": "right answers: points more",
}


def finetuned(run: Run) -> Section | None:
    """The SAE as it was, finetuned, and its rival; what the objective gained, and what it took."""
    outcome = run.outcome("finetune", FinetuneOutcome)
    if outcome is None:
        return None
    blocks: list[Block] = [Text(_in_words(outcome)), _arms(outcome), _gains(outcome), _costs(outcome)]
    return Section("finetune", "Trained further on what the model loses", blocks)


def _in_words(outcome: FinetuneOutcome) -> str:
    return (
        f"The SAE {outcome.member} was trained {outcome.steps:,} steps further on the split "
        f"{outcome.train_split}, with its reconstruction in the model's place: on the divergence of the "
        f"model's predictions, and on squared error, weight {number(outcome.mse)}. On training rows the "
        f"divergence went from {fixed(outcome.kl_first)} to {fixed(outcome.kl_last)} nats. "
        f"{outcome.conclusion} It is in finetune/{outcome.member}; the other stages show the SAE as it was."
    )


def _arms(outcome: FinetuneOutcome) -> Table:
    first = outcome.arms[0]
    measured = [name for name in ("kl", "delta_ce", "accuracy") if getattr(first, name) is not None]
    columns: list[Column] = [
        ("SAE", lambda row: ARMS[row.arm]),
        *(under(FinetuneArm, name, percents if name == "accuracy" else nats) for name in measured),
        under(FinetuneArm, "fvu", fixed),
        under(FinetuneArm, "l0", number),
        under(FinetuneArm, "n_dead", number),
    ]
    note = f"Split {outcome.split}, n = {number(first.kl.n)} predictions or problems, with 95 % intervals."
    return Table.of("With each SAE in the model's place", outcome.arms, columns, note=note, open=True)


def _gains(outcome: FinetuneOutcome) -> Table:
    columns: list[Column] = [
        ("beside the SAE", lambda row: ARMS[row.rival]),
        ("measure", lambda row: GAINS[row.measure]),
        ("difference", lambda row: _shown(row)(row.difference.value)),
        ("95 % interval", lambda row: between(row.difference.low, row.difference.high, _shown(row))),
        ("p (Holm)", lambda row: p_text(row.difference.p_holm)),
        ("verdict", lambda row: verdict_of(row.difference)),
    ]
    note = "Paired by document or problem; above 0 the finetuned SAE is better."
    return Table.of("What it gained", outcome.gains, columns, note=note, n_words=2, open=True)


def _costs(outcome: FinetuneOutcome) -> Table:
    columns: list[Column] = [
        ("SAE", lambda row: ARMS[row.arm]),
        *(under(FinetuneCost, name, number) for name in ("steps", "rows", "tokens")),
        ("seconds", lambda row: fixed(row.seconds, 1)),
        ("microseconds per vector", lambda row: number(round(row.microseconds_per_row))),
    ]
    return Table.of("What it took", outcome.costs, columns)


def _shown(row: FinetuneGain) -> Callable[[Any], str]:
    return points if row.measure == "accuracy" else fixed


def nats(found: Number) -> str:
    """A number with its interval."""
    return f"{fixed(found.value)} {between(found.low, found.high)}"


def percents(found: Number) -> str:
    """A share with its interval."""
    return f"{percent(found.value)} {between(found.low, found.high, percent)}"
