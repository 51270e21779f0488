"""The report's sections, one function a stage; each gives None where its stage is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thoughtlens.show import plots
from thoughtlens.show.report.blocks import Block, Picture, Section, Table, verdict_of
from thoughtlens.show.run import Run
from thoughtlens.show.text import NONE, between, fixed, number, percent, points

UNITS = {"spliced_kl": " nats", "delta_ce": " nats"}
"""What stands behind a headline number that is no share and has a unit."""


def at_a_glance(run: Run) -> Section | None:
    """The headline numbers of every stage, each with its interval, n, split and verdict."""
    rows = []
    stages = [s for s in ("train", "validate", "interpret", "classify", "replay") if s in run.results]
    for stage in stages if "validate" not in stages else stages[stages.index("validate") :]:
        for name, entry in run.results[stage].get("headline", {}).items():
            if isinstance(entry, dict) and "value" in entry:
                rows.append(_headline(stage, name, entry))
    if not rows:
        return None
    columns = ("stage", "number", "value", "95 % interval", "n", "split", "verdict")
    note = (
        "A verdict is given to comparisons only; it names a direction only where the interval does not hold "
        "0. Definitions are at the end of the page."
    )
    return Section("glance", "At a glance", [Table("Headline numbers", columns, rows, note, 2)])


def data(run: Run) -> Section | None:
    """Where the activations come from."""
    result, meta = run.results.get("extract"), run.meta
    if result is None:
        return None
    unit = "token positions" if run.kind == "text" else "thoughts"
    rows = [
        ("model", f"{meta.get('model')} {meta.get('model_revision') or ''}".strip()),
        ("weights (sha256)", (meta.get("model_digest") or NONE)[:16]),
        ("hooks", ", ".join(f"{h} (width {result['d_in'][h]})" for h in result["hook_names"])),
        ("number format", meta.get("dtype", "unknown")),
        ("problems or documents", number(result["n_problems"])),
        (f"rows ({unit})", number(result["n_rows"])),
        ("rows by split", ", ".join(f"{s} {n:,}" for s, n in result["rows_by_split"].items())),
        ("rows flagged as outliers of norm", number(result["n_outliers"])),
    ]
    if meta.get("thought_convention"):
        rows.append(("thought index", meta["thought_convention"]))
    blocks: list[Block] = [Table("What was extracted", ("", ""), rows, n_words=2)]
    if result.get("model_accuracy"):
        found = [
            (a["split"], percent(a["accuracy"]), between(a["low"], a["high"], percent), number(a["n"]))
            for a in result["model_accuracy"]
        ]
        columns = ("split", "right answers", "95 % interval (Wilson)", "n problems")
        blocks.append(Table("The model's own answers", columns, found))
    return Section("data", "Data", blocks)


def training(run: Run) -> Section | None:
    """What was trained, and how it went."""
    result = run.results.get("train")
    if result is None:
        return None
    rows = [
        (
            m["member"], m["kind"], ", ".join(m["hook_names"]), _thoughts(m.get("thoughts")),
            number(m["d_in"]), number(m["d_sae"]), number(m["n_vectors"]), number(m["rows_seen"]),
            number(m["lr_peak"]), fixed(m.get("fvu_train")), fixed(m.get("fvu_validation")),
            number(m.get("l0_validation")), number(m["n_dead"]),
        )
        for m in result["members"]
    ]  # fmt: skip
    columns = (
        "SAE", "kind", "hooks", "thoughts", "d_in", "d_sae", "vectors", "seen", "peak lr", "FVU training",
        "FVU held out", "L0 held out", "dead in training",
    )  # fmt: skip
    held = result["members"][0].get("n_validation")
    note = (
        f"Trained on split {result['split']}, seed {result['seed']}. FVU and L0 here are measured on samples "
        f"of n = {number(result['members'][0].get('n_train'))} training and n = {number(held)} held-out "
        f"vectors of each SAE (split {result['validation_split']}); quote those of the validation instead."
    )
    blocks: list[Block] = [Table("SAEs", columns, rows, note, 4)]
    curves = run.table("train", "metrics.parquet")
    if curves:
        caption = (
            "Held-out (solid) and training (dashed) reconstruction, sparsity and dead latents while training."
        )
        blocks.append(Picture("training", plots.training_curves(curves), caption))
    return Section("training", "SAE and training", blocks)


def _headline(stage: str, name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    share = name.startswith(("accuracy", "spliced_accuracy", "r2", "dead_share"))
    difference = name in ("sae_minus_raw", "spliced_difference")
    show: Callable[..., str] = percent if share else points if difference else number
    unit = " points" if difference else UNITS.get(name, "")
    interval = between(entry.get("low"), entry.get("high"), show)
    verdict = verdict_of(entry) if "verdict" in entry else ""
    value = show(entry["value"]) + unit
    split = entry.get("split") or ""
    return stage, name.replace("_", " "), value, interval, number(entry.get("n")), split, verdict


def _thoughts(thoughts: list[int] | None) -> str:
    return "all" if thoughts is None else ", ".join(map(str, thoughts))
