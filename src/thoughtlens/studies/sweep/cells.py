"""A grid's SAEs as tables, heat maps and fronts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from thoughtlens.core import Number, to_table
from thoughtlens.sae import Ending, Job
from thoughtlens.show import markdown, plots
from thoughtlens.studies.sweep.axes import Setting
from thoughtlens.studies.sweep.choose import Candidate, front
from thoughtlens.studies.sweep.config import GridConfig
from thoughtlens.studies.sweep.figures import fronts, save_both
from thoughtlens.studies.sweep.records import CellFront, GridOutcome, GridRow, GridSetting, Point
from thoughtlens.studies.sweep.tables import pipe_table, with_axes

MEASURED = ("fvu", "l0", "dead")
TITLES = {"fvu": "FVU (0 = perfect)", "l0": "L0 (latents a vector)", "dead": "dead latents"}
MOST_MAPS = 12
"""Settings that are drawn as heat maps; the table has all."""
DEFINITIONS = {
    "front": "settings of a cell that no other beats, or equals, in both l0 and fvu (means over seeds)",
    "status": "trained, or failed: reason says why, and the last good checkpoint is under checkpoints/",
}


@dataclass(frozen=True)
class Trained:
    """An SAE of the grid, and what became of it."""

    setting: Setting
    job: Job
    ending: Ending

    def row(self) -> GridRow:
        """Its line in `table.parquet`, the front left open."""
        job, found = self.job, self.ending.summary
        hooks, thoughts = job.member.hook_names, job.member.thoughts
        split = "train" if found is None or found.fvu_validation is None else "validation"
        return GridRow(
            setting=self.setting.idx,
            label=self.setting.label,
            seed=job.cfg.seed,
            member=job.member.name,
            hook_name=hooks[0] if len(hooks) == 1 else None,
            thought_idx=thoughts[0] if thoughts is not None and len(thoughts) == 1 else None,
            status="trained" if self.ending.failure is None else "failed",
            reason=self.ending.failure,
            path=job.name,
            kind=job.cfg.sae.kind,
            d_in=job.source.d_in,
            d_sae=job.d_sae,
            n_vectors=job.source.n,
            rows_seen=getattr(found, "rows_seen", None),
            lr_peak=getattr(found, "lr_peak", None),
            split=None if found is None else split,
            n=getattr(found, f"n_{split}", None),
            fvu=getattr(found, f"fvu_{split}", None),
            l0=getattr(found, f"l0_{split}", None),
            dead=getattr(found, f"dead_{split}", None),
            fvu_within=getattr(found, f"fvu_within_{split}", None),
            fvu_train=getattr(found, "fvu_train", None),
            loss=getattr(found, "loss", None),
            front=False,
        )


def write(
    cfg: GridConfig, saes: Sequence[Trained], definitions: dict[str, str], warnings: Sequence[str], root: Path
) -> GridOutcome:
    """Write `table.parquet`, `table.md`, `heatmap_*.png|pdf` and `fronts.png|pdf`, and give the result."""
    rows = [sae.row() for sae in saes]
    members = dict.fromkeys(row.member for row in rows)
    cells = [_cell([row for row in rows if row.member == member]) for member in members]
    ahead = {(cell.member, idx) for cell in cells for idx in cell.front}
    rows = [replace(row, front=(row.member, row.setting) in ahead) for row in rows]
    table = with_axes(to_table(GridRow, rows), [dict(sae.setting.values) for sae in saes])
    pq.write_table(table, root / "table.parquet")
    means = [
        _means([row for row in rows if row.setting == s]) for s in dict.fromkeys(r.setting for r in rows)
    ]
    (root / "table.md").write_text(_markdown(means, cells), "utf-8")
    _draw(rows, cells, root)
    failed = [row for row in rows if row.status == "failed"]
    split = next(row.split for row in rows if row.status == "trained")
    best = min(means, key=lambda one: math.inf if one.fvu is None else one.fvu)
    return GridOutcome(
        split=saes[0].job.cfg.validation_split,
        seeds=list(cfg.seeds),
        n_saes=len(rows),
        n_failed=len(failed),
        settings=means,
        fronts=cells,
        headline={
            "fvu_of_best_setting": Number(value=best.fvu, n=best.n, split=split),
            "l0_of_best_setting": Number(value=best.l0, n=best.n, split=split),
        },
        definitions=definitions | DEFINITIONS,
        warnings=[*warnings, *(f"{row.path} was not trained to its end: {row.reason}" for row in failed)],
    )


def _means(own: Sequence[GridRow]) -> GridSetting:
    """A setting's means over its cells and seeds, each of which counts once."""
    trained = [row for row in own if row.status == "trained"]
    return GridSetting(
        setting=own[0].setting,
        label=own[0].label,
        n_saes=len(trained),
        n_failed=len(own) - len(trained),
        n=sum(row.n or 0 for row in trained),
        fvu=_mean([row.fvu for row in trained]),
        l0=_mean([row.l0 for row in trained]),
        dead=_mean([row.dead for row in trained]),
    )


def _cell(own: Sequence[GridRow]) -> CellFront:
    """A member's points, means over seeds, and its front."""
    trained = [row for row in own if row.status == "trained"]
    points = []
    for idx in dict.fromkeys(row.setting for row in trained):
        runs = [row for row in trained if row.setting == idx]
        points.append(
            Candidate(
                idx=idx,
                label=runs[0].label,
                fvu=tuple(row.fvu for row in runs if row.fvu is not None),
                l0=_mean([row.l0 for row in runs]) or 0.0,
                dead_share=_mean([(row.dead or 0) / row.d_sae for row in runs]) or 0.0,
                d_sae=runs[0].d_sae,
                max_l0=math.inf,
            )
        )
    return CellFront(
        member=own[0].member,
        hook_name=own[0].hook_name,
        thought_idx=own[0].thought_idx,
        points=[Point(setting=p.idx, l0=p.l0, fvu=p.mean_fvu) for p in points],
        front=[p.idx for p in front(points)],
    )


def _draw(rows: Sequence[GridRow], cells: Sequence[CellFront], root: Path) -> None:
    mapped = [row for row in rows if row.thought_idx is not None and row.hook_name is not None]
    labels = list(dict.fromkeys(row.label for row in mapped if row.status == "trained"))
    for name in MEASURED if labels else ():
        values = {label: _map(mapped, label, name) for label in labels[:MOST_MAPS]}
        save_both(plots.cell_map(values, f"{TITLES[name]}, mean over seeds"), root / f"heatmap_{name}")
    if any(cell.points for cell in cells):
        save_both(fronts(cells), root / "fronts")


def _map(rows: Sequence[GridRow], label: str, name: str) -> list[tuple[str, int, float]]:
    """One setting's mean over seeds in every cell that has one."""
    cells: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        value = getattr(row, name)
        if row.label == label and value is not None and row.hook_name and row.thought_idx is not None:
            cells.setdefault((row.hook_name, row.thought_idx), []).append(value)
    return [(hook, thought, statistics.mean(values)) for (hook, thought), values in cells.items()]


def _markdown(means: Sequence[GridSetting], cells: Sequence[CellFront]) -> str:
    head = ["setting", "SAEs", "failed", "FVU", "L0", "dead latents", "on the front of"]
    lines = []
    for one in means:
        ahead = sum(one.setting in cell.front for cell in cells)
        numbers = ["" if value is None else f"{value:.4g}" for value in (one.fvu, one.l0, one.dead)]
        counted = [str(one.n_saes), str(one.n_failed), *numbers, f"{ahead} of {len(cells)} cells"]
        lines.append([markdown(one.label), *counted])
    end = "Means over cells and seeds, each SAE counted once. `table.parquet` has every SAE."
    return "\n".join(["# Grid", "", *pipe_table(head, lines), "", end]) + "\n"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None
