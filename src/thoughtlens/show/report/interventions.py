"""The section on interventions: what became of the answers when thoughts were changed."""

from __future__ import annotations

from typing import Any

from thoughtlens.core import DataError, read_result
from thoughtlens.show import plots
from thoughtlens.show.interventions import FOLDER, by_twin, found_in, strips_of
from thoughtlens.show.report.blocks import Block, Picture, Section, Table, Text, unique, verdict_of
from thoughtlens.show.run import Run
from thoughtlens.show.text import between, fixed, number, percent, points

MAX_ROWS = 60
OUTCOMES = ("clean", "predicted", "corrupted", "other", "unparsable")


def interventions(run: Run) -> Section | None:
    """Every intervention of the run: strips over layers and thoughts, effects beside their controls."""
    results = {name: read_result(path) for name, path in found_in(run).items()}
    if strange := [name for name, result in results.items() if result.get("stage") != FOLDER]:
        raise DataError(f"{run.root / FOLDER / strange[0]} is not an intervention; move it elsewhere")
    if not results:
        return None
    blocks: list[Block] = []
    for name, result in results.items():
        blocks += _one(name, result)
    return Section("interventions", "Interventions", blocks)


def _one(name: str, result: dict[str, Any]) -> list[Block]:
    rows = result["effects"]
    accuracy = percent(rows[0]["accuracy_untouched"])
    blocks: list[Block] = [
        Text(
            f"{name}: {plots.words(result['edit'])} on {result['model']}, split {result['split']}; "
            f"untouched: {accuracy} right, n = {rows[0]['n']:,}. Each edit is held against the untouched run "
            f"on the same problems; a control stands below the edit that it belongs to."
        )
    ]
    blocks += [Text(f"Warning: {line}") for line in result["warnings"]]
    strips = strips_of(result)
    if strips:
        key = "share of answers that became the twin's" if by_twin(result) else "change of accuracy"
        caption = f"{name}: {key}, by layer and thought, n = {rows[0]['n']:,}."
        blocks.append(Picture(f"intervene_{name}", plots.cell_map(strips, key), caption))
    doses = [row for row in rows if row.get("dose") is not None and row["scope"] != "all"]
    if doses:
        caption = f"{name}: change of accuracy by dose, in standard deviations of the states; 95 % intervals."
        blocks.append(Picture(f"intervene_{name}_doses", plots.dose_response(doses), caption))
    if result["routes"]:
        blocks.append(_routes(name, result["routes"]))
    return [*blocks, _effects(name, rows)]


def _effects(name: str, rows: list[dict[str, Any]]) -> Table:
    shown = [
        (
            row["edit"], _place(row), row["control"] or "", number(row["n"]), percent(row["accuracy"]),
            points(row["difference"]), between(row["low"], row["high"], points), verdict_of(row),
            number(row["kl"]), " / ".join(f"{100 * row[k]:.0f}" for k in OUTCOMES),
            number(row["changed_site"]), number(row["changed_thoughts"]), percent(row["moved"], 0),
        )
        for row in rows[:MAX_ROWS]
    ]  # fmt: skip
    columns = (
        "edit", "place", "control", "n", "accuracy", "difference (points)", "95 % interval", "verdict",
        "KL (nats)", "own / predicted / twin's or donor's / other / none (%)", "change at the place",
        "change of later thoughts", "answers whose logits moved",
    )  # fmt: skip
    rest = f" The other {len(rows) - MAX_ROWS} rows stand in effects.parquet." if len(rows) > MAX_ROWS else ""
    note = f"Changes are relative to the length of the state; 0: the edit did nothing.{rest}"
    return Table(f"{name}: every edit and control", columns, shown, note, 3)


def _routes(name: str, rows: list[dict[str, Any]]) -> Table:
    shown = [
        (
            str(r["thought_idx"]), r["carried_by"],
            *(
                f"{percent(r[f'moved_{k}'])} {between(r[f'moved_{k}_low'], r[f'moved_{k}_high'], percent)}"
                for k in ("state", "kv", "keys", "values", "both")
            ),
            *(fixed(r[k], 2) for k in ("state_first", "state_last", "kv_first", "kv_last")), number(r["n"]),
        )
        for r in rows
    ]  # fmt: skip
    columns = (
        "thought", "carried by", "twin's answer: state", "keys and values", "keys", "values", "both",
        "state's share, first", "last", "keys' and values' share, first", "last", "n",
    )  # fmt: skip
    return Table(f"{name}: state route and key-value route of each thought", columns, shown, n_words=2)


def _place(row: dict[str, Any]) -> str:
    at = [str(row[key]) for key in ("layer", "thought_idx") if row[key] is not None]
    dose = "" if row.get("dose") is None else f", dose {row['dose']:g}"
    return f"{row['site'] or row['scope']}[{', '.join(at) or 'all'}]{dose}"


def spliced(members: list[dict[str, Any]], split: str) -> list[Block]:
    """Validation of thoughts: answers with x replaced, all places of each SAE, then cell by cell."""
    rows = [{"member": m["member"], **r} for m in members for r in m["fidelity"] or [] if "scope" in r]
    whole = {(r["member"], r["arm"]): r for r in rows}  # the last of each is all places at once
    shown = [
        (
            r["member"], plots.words(r["arm"]), percent(r["accuracy"]), points(r["difference"]),
            between(r["low"], r["high"], points), verdict_of(r), number(r["kl"]),
            between(r["kl_low"], r["kl_high"], number), number(r["delta_logprob"]), number(r["n"]),
        )
        for r in whole.values()
    ]  # fmt: skip
    columns = (
        "SAE", "replaced by", "accuracy", "difference (points)", "95 % interval", "verdict", "KL (nats)",
        "95 % interval", "Δ log-probability of the answer", "n problems",
    )  # fmt: skip
    note = f"Untouched accuracy {percent(rows[0]['accuracy_untouched'])}. Every place of one SAE at once."
    blocks: list[Block] = [
        Table(f"Answers with thoughts replaced by reconstructions, split {split}", columns, shown, note, 2)
    ]
    cells = [r for r in rows if r["hook_name"] is not None]
    names = unique(r["member"] for r in cells)
    pooled = "pooled" if "pooled" in names else names[0]
    values: dict[str, list[tuple[str, int, float]]] = {}
    for r in cells:
        if r["member"] == pooled:
            values.setdefault(plots.words(r["arm"]), []).append(
                (r["hook_name"], r["thought_idx"], r["difference"])
            )
    if len(next(iter(values.values()))) > 1:
        caption = f"SAE {pooled!r}: accuracy lost by replacing one cell, n = {rows[0]['n']:,}, split {split}."
        blocks.append(Picture("cells_spliced", plots.cell_map(values, "change of accuracy"), caption))
    return blocks
