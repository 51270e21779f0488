"""The report's sections, one function a stage; each gives None where its stage is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from thoughtlens import plots
from thoughtlens.report.blocks import (
    NONE,
    Block,
    Picture,
    Section,
    Table,
    Text,
    between,
    fixed,
    number,
    p_text,
    percent,
    points,
    unique,
    verdict_of,
)
from thoughtlens.report.run import Run


def at_a_glance(run: Run) -> Section | None:
    """The headline numbers of every stage, each with its interval, n, split and verdict."""
    rows = []
    stages = [s for s in ("train", "validate", "interpret", "classify") if s in run.results]
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


def classification(run: Run) -> Section | None:
    """Labels from latents and from everything else, under one protocol."""
    result = run.results.get("classify")
    if result is None:
        return None
    primary = result["primary_pooling"]
    classes = [c["class"] for c in result["classes"]]
    main = [row for row in result["table"] if row["pooling"] in (primary, "none")]
    main.sort(key=lambda row: list(result["arms"]).index(row["arm"]))
    title = f"{result['target']}: {len(classes)} classes, n = {result['n']:,}"
    caption = (
        f"Out-of-fold accuracy with 95 % intervals, pooling {primary!r}; dashed: majority class. Split "
        f"{result['split']}, n = {result['n']:,} in {result['n_groups']:,} groups."
    )
    shown = {a: np.array(result["confusion"][a]) for a in ("sae", "raw") if a in result["confusion"]}
    matrices = (
        f"Out-of-fold confusion matrices at pooling {primary!r}: counts, coloured by share of the true class."
    )
    blocks: list[Block] = [
        Text(_primary_sentence(result)),
        Picture("classification", plots.classification(main, title), caption),
        _arms_table(result),
        _comparisons(result),
        _per_class(result),
        Picture("confusion", plots.confusion(shown, classes), f"{matrices} n = {result['n']:,}."),
    ]
    cells = [row for row in run.table("classify", "table.parquet") if row["pooling"] == "cell"]
    if cells:
        values = {
            plots.words(arm): [
                (r["hook_name"], r["thought_idx"], r["accuracy"]) for r in cells if r["arm"] == arm
            ]
            for arm in unique(r["arm"] for r in cells)
        }
        note = (
            f"Accuracy from one (hook, thought) at a time, n = {result['n']:,}, most frequent class "
            f"{percent(max(c['n'] for c in result['classes']) / result['n'])}. The largest of many cells is "
            f"too large by selection; selected_cell in the table above is chosen inside the training folds."
        )
        blocks.append(Picture("cells_classification", plots.cell_map(values, "accuracy, out of fold"), note))
    return Section("classification", "Classification", [*blocks, _protocol(result)])


def _headline(stage: str, name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    share = name.startswith(("accuracy", "dead_share"))
    difference = name == "sae_minus_raw"
    show: Callable[..., str] = percent if share else points if difference else number
    unit = " points" if difference else ""
    interval = between(entry.get("low"), entry.get("high"), show)
    verdict = verdict_of(entry) if "verdict" in entry else ""
    value = show(entry["value"]) + unit
    split = entry.get("split") or ""
    return stage, name.replace("_", " "), value, interval, number(entry.get("n")), split, verdict


def _primary_sentence(result: dict[str, Any]) -> str:
    row = next(c for c in result["comparisons"] if c["primary"])
    at = {r["arm"]: r for r in result["table"] if r["pooling"] == row["pooling"]}
    seen = result["transductive"]
    standing = {
        "inductive": "The SAE has not seen these units.",
        "transductive": f"Transductive: the SAE was trained on {seen['n_seen_by_sae']} of {seen['n']} units.",
        "unknown": "Whether the SAE has seen these units is not known.",
    }[seen["standing"]]
    mdd = row["minimal_detectable_difference"]
    power = (
        ""
        if mdd is None
        else f" With this n, a true difference of {points(mdd)} points would be found 4 times in 5."
    )
    return (
        f"Named before looking: SAE latents against raw activations at pooling {row['pooling']!r}. SAE "
        f"{percent(at['sae']['accuracy'])}, raw {percent(at['raw']['accuracy'])}, difference "
        f"{points(row['difference'])} points {between(row['low'], row['high'], points)}, {row['test']} p = "
        f"{p_text(row['p'])}, n = {row['n']:,} in {row['n_groups']:,} groups: {verdict_of(row)} "
        f"(equivalent means within ±{100 * row['delta']:g} points).{power} {standing}"
    )


def _arms_table(result: dict[str, Any]) -> Table:
    poolings = unique(row["pooling"] for row in result["table"])
    at = {(row["arm"], row["pooling"]): row for row in result["table"]}
    rows = []
    for arm in unique(row["arm"] for row in result["table"]):
        cells = [at.get((arm, p)) for p in poolings]
        text = [
            "" if c is None else f"{percent(c['accuracy'])} {between(c['low'], c['high'], percent)}"
            for c in cells
        ]
        rows.append((plots.words(arm), *text))
    note = (
        f"Accuracy, out of fold, 95 % intervals; split {result['split']}, n = {result['n']:,} in "
        f"{result['n_groups']:,} groups. selected: each arm's pooling chosen inside the training folds."
    )
    return Table("Every arm under every pooling", ("arm", *poolings), rows, note)


def _comparisons(result: dict[str, Any]) -> Table:
    rows = [
        (
            f"{plots.words(c['arm'])} against {plots.words(c['against'])}", c["pooling"],
            points(c["difference"]), between(c["low"], c["high"], points),
            f"{c['n_only_first']} / {c['n_only_second']}", p_text(c["p"]),
            "named before" if c["primary"] else p_text(c["p_holm"]), number(c["n"]), verdict_of(c),
        )
        for c in sorted(result["comparisons"], key=lambda c: not c["primary"])
        if c["primary"] or c["pooling"] in (result["primary_pooling"], "none") or c["arm"] == "sae"
    ]  # fmt: skip
    columns = (
        "comparison", "pooling", "difference (points)", "95 % interval", "right only in first / second", "p",
        "p, Holm", "n", "verdict",
    )  # fmt: skip
    return Table("Paired comparisons on the same units", columns, rows, n_words=2)


def _per_class(result: dict[str, Any]) -> Table:
    rows = []
    for arm in ("sae", "raw", "text"):
        for c in result["per_class"].get(arm, []):
            rows.append(
                (
                    plots.words(arm), c["class"], percent(c["precision"]),
                    between(c["precision_low"], c["precision_high"], percent), percent(c["recall"]),
                    between(c["recall_low"], c["recall_high"], percent), fixed(c["f1"], 2), number(c["n"]),
                )
            )  # fmt: skip
    columns = (
        "arm",
        "class",
        "precision",
        "95 % interval",
        "recall",
        "95 % interval",
        "F1",
        "n of the class",
    )
    caption = f"Per class, out of fold, pooling {result['primary_pooling']!r}, split {result['split']}"
    return Table(caption, columns, rows, n_words=2)


def _protocol(result: dict[str, Any]) -> Table:
    p = result["protocol"]
    rows = [
        (
            "units",
            f"{result['n']:,} in {result['n_groups']:,} groups ({p['group']}), split {result['split']}",
        ),
        ("classes", ", ".join(f"{c['class']} ({c['n']:,})" for c in result["classes"])),
        (
            "folds",
            f"{p['folds']} outer, {p['inner_folds']} inner, stratified, groups whole "
            f"(digest {p['folds_digest']})",
        ),
        ("learner", p["learner"]),
        ("C", f"{', '.join(number(c) for c in p['c_grid'])}; chosen by {p['chosen_by']}"),
        ("scaler", p["scaler"]),
        ("poolings", ", ".join(p["poolings"])),
        ("seed", str(p["seed"])),
    ]
    return Table("Protocol, the same for every arm", ("", ""), rows, n_words=2)


def _thoughts(thoughts: list[int] | None) -> str:
    return "all" if thoughts is None else ", ".join(map(str, thoughts))
