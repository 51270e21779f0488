"""The report's sections, one function a stage; each gives None where its stage is not there."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from thoughtlens.acts import Accuracy, ExtractOutcome
from thoughtlens.core import Number
from thoughtlens.sae import Trained, TrainOutcome
from thoughtlens.show.pages import plots
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import NONE, between, fixed, number, percent, points
from thoughtlens.show.report.blocks import Block, Column, Picture, Section, Table, under, verdict_of

DIFFERENCES = ("sae_minus_raw", "spliced_difference")
UNITS = {"spliced_kl": " nats", "delta_ce": " nats"}
"""What stands behind a headline number that is no share and has a unit."""


def at_a_glance(run: Run) -> Section | None:
    """The headline numbers of every stage, each with its interval, n, split and verdict."""
    stages = ("validate" if "validate" in run.results else "train", "interpret", "classify", "replay")
    rows = [
        (stage, name, Number.from_json(entry))
        for stage in stages
        if stage in run.results
        for name, entry in run.results[stage].get("headline", {}).items()
        if isinstance(entry, dict) and "value" in entry
    ]
    if not rows:
        return None
    columns: list[Column] = [
        ("stage", itemgetter(0)),
        ("number", lambda row: row[1].replace("_", " ")),
        ("value", lambda row: _shown(row[1])(row[2].value) + _unit(row[1])),
        ("95 % interval", lambda row: between(row[2].low, row[2].high, _shown(row[1]))),
        ("n", lambda row: number(row[2].n)),
        ("split", lambda row: row[2].split or ""),
        ("verdict", lambda row: verdict_of(row[2])),
    ]
    note = (
        "A verdict is given to comparisons only; it names a direction only where the interval does not hold "
        "0. Definitions are at the end of the page."
    )
    table = Table.of("Headline numbers", rows, columns, note=note, n_words=2)
    return Section("glance", "At a glance", [table])


def _shown(name: str) -> Callable[[Any], str]:
    """How a headline number is written: a share, a difference of shares, or a number."""
    if name.startswith(("accuracy", "spliced_accuracy", "r2", "dead_share")):
        return percent
    return points if name in DIFFERENCES else number


def _unit(name: str) -> str:
    return " points" if name in DIFFERENCES else UNITS.get(name, "")


def data(run: Run) -> Section | None:
    """Where the activations come from."""
    outcome, meta = run.outcome("extract", ExtractOutcome), run.meta
    if outcome is None or meta is None:
        return None
    unit = "token positions" if run.kind == "text" else "thoughts"
    rows = [
        ("model", f"{meta.model} {meta.model_revision or ''}".strip()),
        ("weights (sha256)", (meta.model_digest or NONE)[:16]),
        ("hooks", ", ".join(f"{hook} (width {outcome.d_in[hook]})" for hook in outcome.hook_names)),
        ("number format", meta.dtype),
        ("problems or documents", number(outcome.n_problems)),
        (f"rows ({unit})", number(outcome.n_rows)),
        ("rows by split", ", ".join(f"{s} {n:,}" for s, n in outcome.rows_by_split.items())),
        ("rows flagged as outliers of norm", number(outcome.n_outliers)),
    ]
    if meta.thought_convention:
        rows.append(("thought index", meta.thought_convention))
    blocks: list[Block] = [Table("What was extracted", ("", ""), rows, n_words=2)]
    if outcome.model_accuracy:
        columns = [
            under(Accuracy, "split", str),
            under(Accuracy, "accuracy", percent),
            ("95 % interval (Wilson)", lambda a: between(a.low, a.high, percent)),
            under(Accuracy, "n", number),
        ]
        blocks.append(Table.of("The model's own answers", outcome.model_accuracy, columns))
    return Section("data", "Data", blocks)


def training(run: Run) -> Section | None:
    """What was trained, and how it went."""
    outcome = run.outcome("train", TrainOutcome)
    if outcome is None:
        return None
    columns = [
        under(Trained, "member", str),
        under(Trained, "kind", str),
        under(Trained, "hook_names", ", ".join),
        under(Trained, "thoughts", lambda known: "all" if known is None else ", ".join(map(str, known))),
        under(Trained, "d_in", number),
        under(Trained, "d_sae", number),
        under(Trained, "n_vectors", number),
        under(Trained, "rows_seen", number),
        under(Trained, "lr_peak", number),
        under(Trained, "fvu_train", fixed),
        under(Trained, "fvu_validation", fixed),
        under(Trained, "l0_validation", number),
        under(Trained, "n_dead", number),
    ]
    first = outcome.members[0]
    note = (
        f"Trained on split {outcome.split}, seed {outcome.seed}. FVU and L0 here are measured on samples of "
        f"n = {number(first.n_train)} training and n = {number(first.n_validation)} held-out vectors of each "
        f"SAE (split {outcome.validation_split}); quote those of the validation instead."
    )
    blocks: list[Block] = [Table.of("SAEs", outcome.members, columns, note=note, n_words=4)]
    curves = run.curves()
    if curves:
        caption = (
            "Held-out (solid) and training (dashed) reconstruction, sparsity and dead latents while training."
        )
        blocks.append(Picture("training", plots.training_curves(curves), caption))
    return Section("training", "SAE and training", blocks)
