"""Layer x thought strips: one number for every place of an SAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from thoughtlens.core import read_result
from thoughtlens.show.explorer.build import rounded
from thoughtlens.show.explorer.cells import Cells
from thoughtlens.show.explorer.sources import Source, place
from thoughtlens.show.interventions import by_twin, found_in, strips_of

OF_CELLS = {
    "explained_variance": "explained variance of the SAE on the cell's rows, centred on their mean",
    "l0": "mean number of latents that fire on a vector of the cell",
}
TITLES = {"explained_variance": "explained variance", "l0": "L0"}


def strips(source: Source, cells: Cells | None) -> list[dict[str, Any]]:
    """Title, note, rows, thoughts, values [rows, thoughts] and whether these have a sign; none for text."""
    if not source.about["thoughts"]:
        return []
    return [*_reconstruction(source), *_peaks(source, cells), *_lenses(source), *_interventions(source)]


def _strip(
    title: str, note: str, cells: Sequence[tuple[str, int, float | None]], signed: bool = False
) -> dict[str, Any]:
    rows = list(dict.fromkeys(row for row, _, _ in cells))
    thoughts = sorted({thought for _, thought, _ in cells})
    known = {(row, thought): value for row, thought, value in cells}
    values = [rounded(known.get((row, t)) for t in thoughts) for row in rows]
    return {
        "title": title, "note": note, "rows": rows, "thoughts": thoughts, "values": values, "signed": signed
    }  # fmt: skip


def _reconstruction(source: Source) -> list[dict[str, Any]]:
    table = source.table("reconstruction")
    rows = [
        row
        for row in (table.to_pylist() if table is not None else [])
        if row["reconstructor"] == "sae" and row["rows"] == "kept" and row["thought_idx"] is not None
    ]
    if not rows:
        return []
    split = source.run.results.get("validate", {}).get("split", "unknown")
    return [
        _strip(
            TITLES[name],
            f"{what}; n = {min(r['n'] for r in rows):,} or more vectors a cell, split {split}.",
            [(r["hook_name"], r["thought_idx"], r[name]) for r in rows],
        )
        for name, what in OF_CELLS.items()
    ]


def _peaks(source: Source, cells: Cells | None) -> list[dict[str, Any]]:
    if cells is None:
        return []
    note = (
        f"live latents by the cell in which they fire most often, as a share of its vectors; split "
        f"{source.run.results['interpret']['split']}, n = {source.about['n_alive']:,} latents."
    )
    return [_strip("latents' own place", note, cells.peaks())]


def _lenses(source: Source) -> list[dict[str, Any]]:
    """Of the model: how often the strongest token of each lens is one of the problem's words."""
    file = place(source.run, "lens_summary")
    rows = [r for r in pq.read_table(file).to_pylist() if r["subset"] == "all"] if file.is_file() else []
    found = []
    for lens in dict.fromkeys(r["lens"] for r in rows):
        own = [r for r in rows if r["lens"] == lens]
        n, chance = min(r["n"] for r in own), max(r["null_high"] or 0.0 for r in own)
        note = (
            f"share of problems whose strongest token is this word of theirs; n = {n:,} or more a cell; with "
            f"shuffled words at most {chance:.1%} (95 % quantile of the worst cell)."
        )
        places = [(f"{r['hook_name']}: {r['column']}", r["thought_idx"], r["rate"]) for r in own]
        found.append(_strip(f"{lens} lens", note, places))
    return found


def _interventions(source: Source) -> list[dict[str, Any]]:
    """Of the model, not of the SAE: what editing each place does to the answers."""
    found = []
    for name, path in found_in(source.run).items():
        result = read_result(path)
        what = "share of answers that became the twin's" if by_twin(result) else "change of accuracy"
        for edit, places in strips_of(result).items():
            note = f"{what}, intervention {name}, n = {result['n']:,} problems, split {result['split']}."
            found.append(_strip(edit.replace("_", " "), note, places, signed=not by_twin(result)))
    return found
