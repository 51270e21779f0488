"""A grid's rows as tables, heat maps and fronts."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from thoughtlens.sae.jobs.job import Job
from thoughtlens.sae.jobs.run import Outcome
from thoughtlens.show import plots
from thoughtlens.show.figures import freeze, save
from thoughtlens.show.text import markdown
from thoughtlens.studies.grid.figures import fronts
from thoughtlens.studies.sweep.choose import Candidate, front
from thoughtlens.studies.sweep.grid import Setting

MEASURED = ("fvu", "l0", "dead")
TITLES = {"fvu": "FVU (0 = perfect)", "l0": "L0 (latents a vector)", "dead": "dead latents"}
MOST_MAPS = 12
"""Settings that are drawn as heat maps; the table has all."""
DEFINITIONS = {
    "front": "settings of a cell that no other beats, or equals, in both l0 and fvu (means over seeds)",
    "status": "trained, or failed: reason says why, and the last good checkpoint is under checkpoints/",
}


def row(setting: Setting, job: Job, outcome: Outcome) -> dict[str, Any]:
    """One SAE of the grid as a line of `table.parquet`."""
    hooks, thoughts = job.member.hook_names, job.member.thoughts
    found = outcome.summary or {}
    split = "validation" if "fvu_validation" in found else "train"
    return {
        "setting": setting.idx,
        "label": setting.label,
        **dict(setting.values),
        "seed": job.cfg.seed,
        "member": job.member.name,
        "hook_name": hooks[0] if len(hooks) == 1 else None,
        "thought_idx": thoughts[0] if thoughts is not None and len(thoughts) == 1 else None,
        "status": "trained" if outcome.failure is None else "failed",
        "reason": outcome.failure,
        "path": job.name,
        "kind": job.cfg.sae.kind,
        "d_in": job.source.d_in,
        "d_sae": job.d_sae,
        "n_vectors": job.source.n,
        "rows_seen": found.get("rows_seen"),
        "lr_peak": found.get("lr_peak"),
        "split": split if found else None,
        "n": found.get(f"n_{split}"),
        **{name: found.get(f"{name}_{split}") for name in MEASURED},
        "fvu_within": found.get(f"fvu_within_{split}"),
        "fvu_train": found.get("fvu_train"),
        "loss": found.get("loss"),
    }


def write(rows: list[dict[str, Any]], root: Path) -> dict[str, Any]:
    """Write `table.parquet`, `table.md`, `heatmap_*.png|pdf` and `fronts.png|pdf`.

    Returns:
        For the result: `n_saes`, `n_failed`, `settings` (means over cells and seeds), `cells` (each one's
        front), `headline`.
    """
    cells = _cells(rows)
    on_front = {(cell["member"], idx) for cell in cells for idx in cell["front"]}
    lines = [line | {"front": (line["member"], line["setting"]) in on_front} for line in rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    types = {"thought_idx": pa.int64(), "fvu_within": pa.float64(), "reason": pa.string()}
    columns = {name: pa.array([line.get(name) for line in lines], types.get(name)) for name in names}
    pq.write_table(pa.table(columns), root / "table.parquet")
    found = _settings(rows)
    (root / "table.md").write_text(_markdown(found, cells), "utf-8")
    _draw(rows, cells, root)
    trained = [line for line in rows if line["status"] == "trained"]
    best = min(found, key=lambda s: s["fvu"] if s["fvu"] is not None else math.inf)
    return {
        "n_saes": len(rows),
        "n_failed": len(rows) - len(trained),
        "settings": found,
        "cells": cells,
        "headline": {
            f"{name}_of_best_setting": {"value": best[name], "n": best["n"], "split": trained[0]["split"]}
            for name in ("fvu", "l0")
        },
    }


def _settings(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a setting: means over its cells and seeds, each of which counts once."""
    found = []
    for idx in dict.fromkeys(line["setting"] for line in rows):
        own = [line for line in rows if line["setting"] == idx]
        trained = [line for line in own if line["status"] == "trained"]
        found.append(
            {
                "setting": idx,
                "label": own[0]["label"],
                "n_saes": len(trained),
                "n_failed": len(own) - len(trained),
                "n": sum(line["n"] for line in trained),
                **{name: _mean([line[name] for line in trained]) for name in MEASURED},
            }
        )
    return found


def _cells(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a member: its points (means over seeds) and its front."""
    found = []
    for member in dict.fromkeys(line["member"] for line in rows):
        own = [line for line in rows if line["member"] == member and line["status"] == "trained"]
        points = []
        for idx in dict.fromkeys(line["setting"] for line in own):
            runs = [line for line in own if line["setting"] == idx]
            points.append(
                Candidate(
                    idx=idx,
                    label=runs[0]["label"],
                    fvu=tuple(line["fvu"] for line in runs),
                    l0=statistics.mean(line["l0"] for line in runs),
                    dead_share=statistics.mean(line["dead"] / line["d_sae"] for line in runs),
                    d_sae=runs[0]["d_sae"],
                    max_l0=math.inf,
                )
            )
        first = next(line for line in rows if line["member"] == member)
        found.append(
            {
                "member": member,
                "hook_name": first["hook_name"],
                "thought_idx": first["thought_idx"],
                "points": [{"setting": p.idx, "l0": p.l0, "fvu": p.mean_fvu} for p in points],
                "front": [p.idx for p in front(points)],
            }
        )
    return found


def _draw(rows: list[dict[str, Any]], cells: list[dict[str, Any]], root: Path) -> None:
    mapped = [line for line in rows if line["thought_idx"] is not None and line["hook_name"] is not None]
    labels = list(dict.fromkeys(line["label"] for line in mapped if line["status"] == "trained"))
    for name in MEASURED if labels else ():
        values = {label: _map(mapped, label, name) for label in labels[:MOST_MAPS]}
        _save(plots.cell_map(values, f"{TITLES[name]}, mean over seeds"), root / f"heatmap_{name}")
    if any(cell["points"] for cell in cells):
        _save(fronts(cells), root / "fronts")


def _map(rows: list[dict[str, Any]], label: str, name: str) -> list[tuple[str, int, float]]:
    """One setting's mean over seeds in every cell that has one."""
    cells: dict[tuple[str, int], list[float]] = {}
    for line in rows:
        if line["label"] == label and line[name] is not None:
            cells.setdefault((line["hook_name"], line["thought_idx"]), []).append(line[name])
    return [(hook, thought, statistics.mean(values)) for (hook, thought), values in cells.items()]


def _save(figure: Figure, stem: Path) -> None:
    freeze(figure)
    save(figure, stem.with_suffix(".png"), dpi=160)
    save(figure, stem.with_suffix(".pdf"), metadata={"CreationDate": None})


def _markdown(found: list[dict[str, Any]], cells: list[dict[str, Any]]) -> str:
    lines = ["# Grid", "", "| setting | SAEs | failed | FVU | L0 | dead latents | on the front of |"]
    lines.append("|" + "---|" * 7)
    for s in found:
        ahead = sum(s["setting"] in cell["front"] for cell in cells)
        numbers = ["" if s[name] is None else f"{s[name]:.4g}" for name in MEASURED]
        counted = [str(s["n_saes"]), str(s["n_failed"]), *numbers, f"{ahead} of {len(cells)} cells"]
        lines.append("| " + " | ".join([markdown(s["label"]), *counted]) + " |")
    lines += ["", "Means over cells and seeds, each SAE counted once. `table.parquet` has every SAE."]
    return "\n".join(lines) + "\n"


def _mean(values: list[float]) -> float | None:
    return statistics.mean(values) if values else None
