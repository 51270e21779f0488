"""The trade-off of a sweep as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from thoughtlens.show.plots import BLUE, GREY, INK, VERMILION, styled
from thoughtlens.studies.sweep.choose import Choice

MOST_LABELS = 16
WORDS = {
    "fvu": "FVU (0 = perfect)",
    "fvu_within": "FVU within (hook, thought) cells (0 = perfect)",
    "fidelity": "fidelity (share of what the model can do)",
}


@styled
def pareto(table: Sequence[dict[str, Any]], metric: str, choice: Choice) -> Figure:
    """L0 against FVU, and against fidelity where it was measured, on test rows; bars are one SD over seeds.

    The line joins the front that validation rows show; the recommended setting is ringed.

    Args:
        table: One entry a setting, as `write` makes them.
        metric: `fvu` or `fvu_within`.
        choice: What was chosen.
    """
    shown = [row for row in table if row["n_seeds"]]
    panels = [metric, *(["fidelity"] if any(row["test"].get("fidelity") for row in shown) else [])]
    figure = Figure(figsize=(4.8 * len(panels), 3.6), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axis, [row for row in shown if row["test"].get(name)], name, choice)
        axis.set(xlabel="L0 (latents a row)", ylabel=WORDS[name])
    n = shown[0]["test"]["n"]
    figure.suptitle(f"Split test, n = {n:,} vectors; bars: one SD over seeds", fontsize=9, x=0.01, ha="left")
    return figure


def _panel(axis: Axes, rows: Sequence[dict[str, Any]], name: str, choice: Choice) -> None:
    at = {row["idx"]: (row["test"]["l0"]["mean"], row["test"][name]["mean"]) for row in rows}
    if line := [at[idx] for idx in choice.front if idx in at]:
        axis.plot(*zip(*line, strict=True), color=GREY, lw=1.0, zorder=1)
    for row in rows:
        x, y = at[row["idx"]]
        bars = [row["test"][key]["sd"] or 0.0 for key in ("l0", name)]
        colour = BLUE if row["idx"] in choice.front else GREY
        axis.errorbar(
            x, y, xerr=bars[0], yerr=bars[1], fmt="o", ms=4, color=colour, lw=1.0, capsize=2, zorder=2
        )
        if row["idx"] == choice.idx:
            axis.scatter(x, y, s=110, facecolors="none", edgecolors=VERMILION, lw=1.5, zorder=3)
        if len(rows) <= MOST_LABELS or row["idx"] in choice.front:
            label = " ".join(row["values"].values()) if row["values"] else row["label"]
            axis.annotate(label, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=6.5, color=INK)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    if rows:
        axis.set_xticks(sorted({float(f"{x:.3g}") for x, _ in at.values()})[:: max(1, len(at) // 8)])
    if name != "fidelity":
        axis.set_ylim(bottom=0)
    axis.grid()
