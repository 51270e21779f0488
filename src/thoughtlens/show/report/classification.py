"""The section on classification: every arm, what may be said of it, and where the label is."""

from __future__ import annotations

from typing import Any

import numpy as np

from thoughtlens.sae.formats.io import POOLED
from thoughtlens.show import plots
from thoughtlens.show.report.blocks import Block, Picture, Section, Table, Text, unique, verdict_of
from thoughtlens.show.run import Run
from thoughtlens.show.text import NONE, between, fixed, number, p_text, percent, points

Row = dict[str, Any]
WORDS = {"accuracy": "accuracy", "r2": "R squared"}
SHOWN_CLASSES = 12
"""Classes up to which a confusion matrix can be read."""
SIDES = {"better": "higher", "worse": "lower"}
"""What a comparison that was not named before looking may say: a side, not a judgement."""


def classification(run: Run) -> Section | None:
    """Labels from latents and from everything else, under one protocol."""
    result = run.results.get("classify")
    if result is None:
        return None
    metric, pooling = _metric(result), result["primary_pooling"]
    main = [row for row in result["table"] if row["pooling"] in (pooling, "none")]
    main.sort(key=lambda row: list(result["arms"]).index(row["arm"]))
    title = f"{result['target']}: {_kinds(result)}, n = {result['n']:,}"
    caption = (
        f"Out-of-fold {WORDS[metric]} with 95 % intervals, pooling {pooling!r}; dashed: the arm that looks "
        f"at "
        f"nothing. Split {result['split']}, n = {result['n']:,} in {result['n_groups']:,} groups."
    )
    blocks: list[Block] = [
        Text(_primary_sentence(result)),
        Picture("classification", plots.classification(main, title, metric), caption),
        _arms_table(result),
        _comparisons(result),
        *_single_classes(result),
        *_cells(run, result),
        *_curves(run, result),
        _protocol(result),
    ]
    return Section("classification", "Classification", blocks)


def _metric(result: Row) -> str:
    return result.get("metric", "accuracy")


def _kinds(result: Row) -> str:
    return f"{len(result['classes'])} classes" if result["classes"] else "a number"


def _single_classes(result: Row) -> list[Block]:
    """Precision and recall of each class, and the confusion matrices."""
    if not result["classes"]:
        return []
    classes = [c["class"] for c in result["classes"]]
    shown = {a: np.array(result["confusion"][a]) for a in ("sae", "raw") if a in result["confusion"]}
    text = (
        f"Out-of-fold confusion matrices at pooling {result['primary_pooling']!r}: counts, coloured by "
        f"share of "
        f"the true class. n = {result['n']:,}."
    )
    figures = (
        [Picture("confusion", plots.confusion(shown, classes), text)] if len(classes) <= SHOWN_CLASSES else []
    )
    return [_per_class(result), *figures]


def _cells(run: Run, result: Row) -> list[Block]:
    """The score of every cell, what the tests over cells say, and what poolings lose."""
    metric = _metric(result)
    cells = [row for row in run.table("classify", "table.parquet") if row["pooling"] == "cell"]
    if not cells:
        return []
    values = {
        plots.words(arm): [(r["hook_name"], r["thought_idx"], r[metric]) for r in cells if r["arm"] == arm]
        for arm in unique(r["arm"] for r in cells)
    }
    note = (
        f"Out-of-fold {WORDS[metric]} from one (hook, thought) at a time, n = {result['n']:,}. The largest "
        f"of many "
        f"cells is too large by selection; selected_cell in the table above is chosen inside the training "
        f"folds."
    )
    blocks: list[Block] = [
        Picture("cells_classification", plots.cell_map(values, f"{WORDS[metric]}, out of fold"), note)
    ]
    for arm, found in result.get("cell_tests", {}).items():
        blocks.append(Text(f"{plots.words(arm)}: {found['says']}"))
        if found["poolings"]:
            blocks.append(_lost(arm, found))
    return blocks


def _lost(arm: str, found: Row) -> Table:
    rows = [
        (
            r["pooling"], points(r["difference"]), between(r["low"], r["high"], points),
            percent(r["strongest_in_cell"], 0), percent(r.get("strongest_in_pooling"), 0), _side(r),
            r["says"] or "",
        )
        for r in found["poolings"]
    ]  # fmt: skip
    columns = (
        "pooling", "against the best cell (points)", "95 % interval", "strongest feature there",
        "after pooling", "verdict", "why",
    )  # fmt: skip
    note = (
        f"The best cell is chosen inside the training folds. Strongest feature: share of the label's "
        f"variance "
        f"that one feature explains. n = {found['n']:,}."
    )
    return Table(f"What poolings keep of the best cell: {plots.words(arm)}", columns, rows, note)


def _curves(run: Run, result: Row) -> list[Block]:
    """Score at k, and the latents that were chosen, with what they respond to."""
    curves, metric = result.get("curves", []), _metric(result)
    if not curves:
        return []
    pooling = next(
        (p for p in ("concat", "mean") if any(c["pooling"] == p for c in curves)), curves[0]["pooling"]
    )
    own = [c for c in curves if c["pooling"] == pooling]
    text = (
        f"Out-of-fold {WORDS[metric]} from k features, pooling {pooling!r}, 95 % intervals, n = "
        f"{result['n']:,}. "
        f"Features are ranked one by one in each training fold. Fewest that reach 95 % of the curve's top: "
        + ", ".join(
            f"{plots.words(c)} {result['fewest'][f'{c} {pooling}']}" for c in unique(c["arm"] for c in own)
        )
        + "."
    )
    blocks: list[Block] = [Picture("at_k", plots.at_k(own, metric), text)]
    rows = [c for c in result["chosen"] if (c["arm"], c["pooling"]) == ("top_latents", pooling)]
    if rows:
        blocks.append(_chosen(run, result, rows))
    return blocks


def _chosen(run: Run, result: Row, rows: list[Row]) -> Table:
    known = _explanations(run)
    table = [
        (
            f"{'latent' if c['member'] == POOLED else c['member']} {c['index']}", ", ".join(c["hook_names"]),
            ", ".join(map(str, c["thoughts"])) or NONE, f"{c['n_folds']} of {result['protocol']['folds']}",
            known.get((c["member"], c["index"]), NONE),
        )
        for c in rows
    ]  # fmt: skip
    columns = ("latent", "hooks", "thoughts", "folds", "strongest preference (interpret stage, q < 0.05)")
    return Table("Latents that say most about the label, first ones first", columns, table, n_words=5)


def _explanations(run: Run) -> dict[tuple[str, int], str]:
    """Of each latent, the preference with the largest z."""
    best: dict[tuple[str, int], Row] = {}
    for row in run.table("interpret", "associations.parquet"):
        key = (row["member"], row["latent"])
        if row["q_value"] < 0.05 and abs(row["z"]) > abs(best.get(key, {"z": 0.0})["z"]):
            best[key] = row
    return {
        key: f"{r['factor'].removeprefix('label:')} {r['level']}: {r['statistic']} {number(r['estimate'])}"
        for key, r in best.items()
    }


def _side(row: Row) -> str:
    """Where a comparison lies; the primary one alone is given its verdict in the words of a judgement."""
    word = verdict_of(row)
    return word if row.get("primary") else SIDES.get(word, word)


def _primary_sentence(result: dict[str, Any]) -> str:
    metric = _metric(result)
    row = next(c for c in result["comparisons"] if c["primary"])
    at = {r["arm"]: r for r in result["table"] if r["pooling"] == row["pooling"]}
    seen = result["transductive"]
    standing = {
        "inductive": "The SAE has not seen these units.",
        "transductive": f"Transductive: the SAE was trained on {seen['n_seen_by_sae']} of {seen['n']} units.",
        "unknown": "Whether the SAE has seen these units is not known.",
        "cross-fitted": "Cross-fitted: an SAE of its own for each fold, which has not seen that fold.",
    }[seen["standing"]]
    mdd = row["minimal_detectable_difference"]
    power = (
        " With this n and this much disagreement, no difference would be found 4 times in 5."
        if mdd is None
        else f" With this n, a true difference of {points(mdd)} points would be found 4 times in 5."
    )
    return (
        f"Named before looking: SAE latents against raw activations at pooling {row['pooling']!r}. SAE "
        f"{percent(at['sae'][metric])}, raw {percent(at['raw'][metric])} ({WORDS[metric]}), difference "
        f"{points(row['difference'])} points {between(row['low'], row['high'], points)}, {row['test']} p = "
        f"{p_text(row['p'])}, n = {row['n']:,} in {row['n_groups']:,} groups: {verdict_of(row)} "
        f"(equivalent means within ±{100 * row['delta']:g} points).{power} {standing}"
    )


def _arms_table(result: dict[str, Any]) -> Table:
    metric = _metric(result)
    poolings = unique(row["pooling"] for row in result["table"])
    at = {(row["arm"], row["pooling"]): row for row in result["table"]}
    rows = []
    for arm in unique(row["arm"] for row in result["table"]):
        cells = [at.get((arm, p)) for p in poolings]
        text = [
            "" if c is None else f"{percent(c[metric])} {between(c['low'], c['high'], percent)}"
            for c in cells
        ]
        rows.append((plots.words(arm), *text))
    note = (
        f"{WORDS[metric].capitalize()}, out of fold, 95 % intervals; split {result['split']}, n = "
        f"{result['n']:,} in "
        f"{result['n_groups']:,} groups. selected: each arm's pooling chosen inside the training folds."
    )
    return Table("Every arm under every pooling", ("arm", *poolings), rows, note)


def _comparisons(result: dict[str, Any]) -> Table:
    rows = [
        (
            f"{plots.words(c['arm'])} against {plots.words(c['against'])}", c["pooling"],
            points(c["difference"]), between(c["low"], c["high"], points),
            f"{c['n_only_first']} / {c['n_only_second']}", p_text(c["p"]),
            "named before" if c["primary"] else p_text(c["p_holm"]), number(c["n"]), _side(c),
        )
        for c in sorted(result["comparisons"], key=lambda c: not c["primary"])
        if c["primary"] or c["pooling"] in (result["primary_pooling"], "none") or c["arm"] == "sae"
    ]  # fmt: skip
    columns = (
        "comparison", "pooling", "difference (points)", "95 % interval", "right only in first / second", "p",
        "p, Holm", "n", "verdict",
    )  # fmt: skip
    note = (
        "Only the comparison named before looking is judged; of all others the table says which side is "
        "higher. "
        "Equivalent: the whole interval lies within "
        f"{100 * result['protocol']['delta']:g} points of 0."
    )
    return Table("Paired comparisons on the same units", columns, rows, note, 2)


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
        ("classes", ", ".join(f"{c['class']} ({c['n']:,})" for c in result["classes"]) or "none: a number"),
        (
            "folds",
            f"{p['folds']} outer, {p['inner_folds']} inner, stratified, groups whole "
            f"(digest {p['folds_digest']})",
        ),
        ("learner", p["learner"]),
        ("C", f"{', '.join(number(c) for c in p['c_grid'])}; chosen by {p['chosen_by']}"),
        ("scaler", p["scaler"]),
        ("poolings", ", ".join(p["poolings"])),
        ("the same for every arm", ", ".join(p.get("same_for_every_arm", []))),
        ("the same for every arm of vectors", ", ".join(p.get("same_for_every_arm_of_vectors", []))),
        ("seed", str(p["seed"])),
    ]
    return Table("Protocol, the same for every arm", ("", ""), rows, n_words=2)
