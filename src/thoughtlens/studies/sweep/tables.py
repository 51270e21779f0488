"""A sweep's rows as tables, figure and words."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.show.figures import freeze, save
from thoughtlens.show.text import markdown
from thoughtlens.studies.sweep.choose import Candidate, Choice
from thoughtlens.studies.sweep.config import SweepConfig
from thoughtlens.studies.sweep.figure import pareto

MEASURED = ("fvu", "fvu_within", "explained_variance", "l0", "dead_share", "fidelity")
SPLITS = ("validation", "test")
COUNTS = ("n", "n_problems", "n_fidelity")


def candidates(cfg: SweepConfig, rows: list[dict[str, Any]], metric: str) -> list[Candidate]:
    """The settings that were trained, as validation rows see them."""
    found = []
    for idx in dict.fromkeys(row["idx"] for row in rows):
        own = [row["validation"] for row in rows if row["idx"] == idx and row["status"] == "trained"]
        if own:
            found.append(
                Candidate(
                    idx=idx,
                    label=next(row["label"] for row in rows if row["idx"] == idx),
                    fvu=tuple(row[metric] for row in own),
                    l0=statistics.mean(row["l0"] for row in own),
                    dead_share=statistics.mean(row["dead_share"] for row in own),
                    d_sae=own[0]["d_sae"],
                    max_l0=cfg.max_l0 or own[0]["d_in"] / 4,
                )
            )
    return found


def write(
    cfg: SweepConfig, rows: list[dict[str, Any]], choice: Choice, metric: str, root: Path
) -> list[dict[str, Any]]:
    """Write `table.parquet` (a line a setting and seed), `table.md`, `pareto.png` and `pareto.pdf`.

    Returns:
        One entry a setting: its values, and by split the mean and spread over seeds of each number.
    """
    pq.write_table(_lines(rows), root / "table.parquet")
    table = [_setting(rows, idx) for idx in dict.fromkeys(row["idx"] for row in rows)]
    figure = pareto(table, metric, choice)
    freeze(figure)
    save(figure, root / "pareto.png", dpi=160)
    save(figure, root / "pareto.pdf", metadata={"CreationDate": None})
    (root / "table.md").write_text(_markdown(cfg, table, choice, metric), "utf-8")
    return table


def recommendation(table: list[dict[str, Any]], choice: Choice) -> dict[str, Any]:
    """The chosen setting with its numbers on both splits, and why; `setting` is None where none is."""
    entry = next((row for row in table if row["idx"] == choice.idx), None)
    return {
        "setting": None if entry is None else entry["label"],
        "idx": choice.idx,
        "path": None if entry is None else f"settings/{choice.idx:03d}",
        "rule": choice.rule,
        "reason": choice.reason,
        "front": list(choice.front),
        "within_seed_noise": list(choice.within_noise),
        "seed_noise_sd_ln_fvu": choice.noise.sd,
        "seed_noise_df": choice.noise.df,
        **({} if entry is None else {split: entry[split] for split in SPLITS}),
    }


def headline(table: list[dict[str, Any]], choice: Choice, metric: str) -> dict[str, Any]:
    """The chosen setting's numbers on test rows."""
    entry = next((row for row in table if row["idx"] == choice.idx), None)
    if entry is None:
        return {}
    measured, n = entry["test"], entry["test"]["n"]
    names = [name for name in (metric, "l0", "dead_share", "fidelity") if measured.get(name) is not None]
    sizes = {name: measured["n_fidelity"] if name == "fidelity" else n for name in names}
    return {
        name: {
            "value": measured[name]["mean"],
            "n": sizes[name],
            "split": "test",
            "low": measured[name]["low"],
            "high": measured[name]["high"],
        }
        for name in names
    }


def _lines(rows: list[dict[str, Any]]) -> pa.Table:
    """One line a setting and seed; what was not measured is null."""
    lines = []
    for row in rows:
        line = {"setting": row["idx"], "label": row["label"], **row["values"]}
        line |= {name: row[name] for name in ("seed", "status", "reason", "path")}
        for split in SPLITS:
            for name in (*MEASURED, *COUNTS):
                line[f"{name}_{split}"] = row.get(split, {}).get(name)
        line |= {name: row.get("test", {}).get(name) for name in ("d_in", "d_sae")}
        lines.append(line)
    types = {f"{name}_{split}": pa.float64() for name in MEASURED for split in SPLITS}
    types |= {f"{name}_{split}": pa.int64() for name in COUNTS for split in SPLITS}
    types |= {"seed": pa.int64(), "setting": pa.int64(), "d_in": pa.int64(), "d_sae": pa.int64()}
    return pa.table(
        {name: pa.array([line[name] for line in lines], types.get(name, pa.string())) for name in lines[0]}
    )


def _setting(rows: list[dict[str, Any]], idx: int) -> dict[str, Any]:
    own = [row for row in rows if row["idx"] == idx]
    trained = [row for row in own if row["status"] == "trained"]
    entry = {
        "idx": idx,
        "label": own[0]["label"],
        "values": own[0]["values"],
        "n_seeds": len(trained),
        "reasons": [row["reason"] for row in own if row["reason"]],
    }
    for split in SPLITS:
        if trained:
            entry[split] = {
                name: trained[0][split][name]
                for name in (*COUNTS, "d_in", "d_sae")
                if name in trained[0][split]
            }
            for name in MEASURED:
                values = [row[split][name] for row in trained if row[split].get(name) is not None]
                entry[split][name] = _spread(values) if len(values) == len(trained) else None
    return entry


def _spread(values: list[float]) -> dict[str, float | None]:
    mean = statistics.mean(values)
    sd = statistics.stdev(values) if len(values) > 1 else None
    low, high = (None, None) if sd is None else (mean - sd, mean + sd)
    return {"mean": mean, "sd": sd, "low": low, "high": high}


def _markdown(cfg: SweepConfig, table: list[dict[str, Any]], choice: Choice, metric: str) -> str:
    """The table of settings on test rows, and the recommendation."""
    columns = [name for name in MEASURED if any((row.get("test") or {}).get(name) for row in table)]
    keys = list(table[0]["values"])
    head = [*keys, "seeds", f"{metric} (validation)", *columns, ""]
    chosen = next((row["label"] for row in table if row["idx"] == choice.idx), "none")
    lines = [
        "# Sweep",
        "",
        f"Recommended: **{markdown(chosen)}**. {markdown(choice.reason)}",
        "",
    ]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in table:
        values = [markdown(value) for value in row["values"].values()]
        if row["n_seeds"] == 0:
            cells = ["0", *[""] * (len(columns) + 1), markdown(row["reasons"][0])]
        else:
            marks = ["recommended"] if row["idx"] == choice.idx else []
            marks += ["front"] if row["idx"] in choice.front else []
            marks += [f"{len(row['reasons'])} failed: {row['reasons'][0]}"] if row["reasons"] else []
            numbers = [row["validation"][metric], *(row["test"][name] for name in columns)]
            cells = [str(row["n_seeds"]), *map(_number, numbers), markdown(", ".join(marks))]
        lines.append("| " + " | ".join([*values, *cells]) + " |")
    n = {split: next(row[split]["n"] for row in table if row["n_seeds"]) for split in SPLITS}
    lines += [
        "",
        f"Mean ± standard deviation over seeds {', '.join(map(str, cfg.seeds))}. Settings were chosen by "
        f"{metric} on {n['validation']:,} vectors of validation rows; all other columns are of "
        f"{n['test']:,} vectors of test rows.",
    ]
    return "\n".join(lines) + "\n"


def _number(spread: dict[str, float | None] | None) -> str:
    if spread is None:
        return ""
    return f"{spread['mean']:.4g}" + ("" if spread["sd"] is None else f" ± {spread['sd']:.2g}")
