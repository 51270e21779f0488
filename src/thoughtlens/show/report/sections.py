"""The report's sections, one function per stage; each gives None where its stage is not there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from operator import itemgetter
from typing import Any, NamedTuple

from thoughtlens.acts import Accuracy, ExtractOutcome
from thoughtlens.core import Number, read_result
from thoughtlens.evals import TextFidelity, ThoughtFidelity, ValidateOutcome
from thoughtlens.sae import Converted, ConvertOutcome, Trained, TrainOutcome
from thoughtlens.show.pages import plots
from thoughtlens.show.pages.names import named
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import NONE, between, counts, fixed, number, percent, points
from thoughtlens.show.report.blocks import MEMBER, Block, Column, Picture, Section, Table, under, verdict_of

DIFFERENCES = (
    "sae_minus_raw",
    "spliced_difference",
    "finetune_accuracy_before",
    "finetune_accuracy_squared_error",
)
UNITS = {"spliced_kl": " nats", "delta_ce": " nats"} | {
    f"finetune_{measure}_{rival}": " nats"
    for measure in ("kl", "delta_ce")
    for rival in ("before", "squared_error")
}
"""What stands behind a headline number that is no share and has a unit."""


def at_a_glance(run: Run) -> Section | None:
    """The headline numbers of every stage, each with its interval, n, split and verdict."""
    stages = (
        "validate" if "validate" in run.results else "train",
        "finetune",
        "interpret",
        "classify",
        "trace",
        "circuit",
        "program",
        "monitor",
        "replay",
    )
    rows = [
        (stage, name, Number.from_json(entry))
        for stage in stages
        if stage in run.results
        for name, entry in run.results[stage].get("headline", {}).items()
        if isinstance(entry, dict) and "value" in entry
    ]
    if not rows:
        return None
    validated = run.outcome("validate", ValidateOutcome)

    def behind(row: tuple[str, str, Number]) -> Behind:
        stage, name, found = row
        return Behind.of(name, validated) if validated and stage == "validate" else Behind(number(found.n))

    columns: list[Column] = [
        ("stage", itemgetter(0)),
        ("number", lambda row: named(row[1])),
        ("value", lambda row: _shown(row[1])(row[2].value) + _unit(row[1])),
        ("95 % interval", lambda row: between(row[2].low, row[2].high, _shown(row[1]))),
        ("n", lambda row: behind(row).n),
        ("mean over", lambda row: behind(row).over),
        ("split", lambda row: row[2].split or ""),
        ("verdict", lambda row: verdict_of(row[2])),
    ]
    note = (
        "A verdict is given to comparisons only; it names a direction only where the interval does not hold "
        "0 and p, adjusted for all that was compared beside it, is at most 0.05. A mean over SAEs has the n "
        "of each of them: what several of them read is not counted again. "
        "Definitions are at the end of the page."
    )
    table = Table.of("Headline numbers", rows, columns, note=note, n_words=2)
    return Section("glance", "At a glance", [table])


class Behind(NamedTuple):
    """What a headline number is measured on, and what it is a mean over."""

    n: str
    over: str = ""

    @classmethod
    def of(cls, name: str, outcome: ValidateOutcome) -> Behind:
        """Of a number of the validation, which is a mean over its SAEs."""
        unit, n = "vectors", [m.n for m in outcome.members]
        if name.startswith("spliced"):
            rows = [[r for r in m.fidelity or () if isinstance(r, ThoughtFidelity)] for m in outcome.members]
            unit, n = "problems", [own[-1].n for own in rows if own]  # the last is all places at once
        elif name.startswith(("delta_ce", "ce_loss")):
            rows = [r for m in outcome.members for r in m.fidelity or () if isinstance(r, TextFidelity)]
            unit, n = "tokens", [r.n for r in rows if r.arm == "sae"]
        if len(n) < 2:
            return cls(f"{counts(n)} {unit}")
        cells = [cell for m in outcome.members for cell in product(m.hook_names, m.thoughts or (None,))]
        shared = len(set(cells)) < len(cells) or any(m.thoughts is None for m in outcome.members)
        return cls(f"{counts(n)} {unit} each", f"{len(n)} SAEs{', which share vectors' if shared else ''}")


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
        ("model", f"{meta.model or NONE} {meta.model_revision or ''}".strip()),
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
    if meta.unresolved:
        rows.append(("places in the model that nobody said", ", ".join(meta.unresolved)))
    blocks: list[Block] = [Table.facts(f"What was {'imported' if run.imported else 'extracted'}", rows)]
    if outcome.model_accuracy:
        columns = [
            under(Accuracy, "split", str),
            under(Accuracy, "accuracy", percent),
            ("95 % interval (Wilson)", lambda a: between(a.low, a.high, percent)),
            under(Accuracy, "n", number),
        ]
        blocks.append(Table.of("The model's own answers", outcome.model_accuracy, columns))
    return Section("data", "Data", blocks)


def _converted(run: Run) -> Section | None:
    """SAEs that came from elsewhere."""
    folder = run.folder("train")
    if not (folder / "result.json").is_file() or read_result(folder).get("stage") != "convert":
        return None
    columns = [MEMBER, *(under(Converted, name, str) for name in ("source", "rule", "hook_name"))]
    columns += [under(Converted, name, number) for name in ("d_in", "d_sae")]
    members = ConvertOutcome.from_json(read_result(folder)).members
    return Section("training", "SAE", [Table.of("SAEs, converted", members, columns, n_words=4)])


def training(run: Run) -> Section | None:
    """What was trained, and how it went."""
    outcome = run.outcome("train", TrainOutcome)
    if outcome is None:
        return _converted(run)
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
    n_train = counts(m.n_train for m in outcome.members)
    n_held = counts(m.n_validation for m in outcome.members)
    note = (
        f"Trained on split {outcome.split}, seed {outcome.seed}. FVU and L0 here are measured on samples of "
        f"n = {n_train} training and n = {n_held} held-out vectors of each SAE (split "
        f"{outcome.validation_split}); quote those of the validation instead."
    )
    blocks: list[Block] = [Table.of("SAEs", outcome.members, columns, note=note, n_words=4)]
    curves = run.curves()
    if curves:
        caption = (
            "Held-out (solid) and training (dashed) reconstruction, sparsity and dead latents while training."
        )
        blocks.append(Picture("training", plots.training_curves(curves), caption))
    return Section("training", "SAE and training", blocks)
