"""The trade-offs of a sweep, and of a grid's cells, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from thoughtlens.show import BLUE, GREY, INK, VERMILION, freeze, save, styled
from thoughtlens.studies.sweep.choose import Choice
from thoughtlens.studies.sweep.records import CellFront, OverSeeds, SettingRow, Spread

COLUMNS = 3
MOST_LABELS = 16
WORDS = {
    "fvu": "FVU (0 = perfect)",
    "fvu_within": "FVU within (hook, thought) cells (0 = perfect)",
    "fidelity": "fidelity (share of what the model can do)",
}


@styled
def pareto(table: Sequence[SettingRow], metric: str, choice: Choice) -> Figure:
    """L0 against FVU, and against fidelity where it was measured, on test rows; bars are one SD over seeds.

    The line joins the front that validation rows show; the recommended setting is ringed.

    Args:
        table: One entry per setting, as `write` makes them.
        metric: `fvu` or `fvu_within`.
        choice: What was chosen.
    """
    shown = [(row, row.test) for row in table if row.test is not None]
    panels = [metric, *(["fidelity"] if any(test.fidelity for _, test in shown) else [])]
    figure = Figure(figsize=(4.8 * len(panels), 3.6), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axis, [(row, test) for row, test in shown if getattr(test, name)], name, choice)
        axis.set(xlabel="L0 (latents per row)", ylabel=WORDS[name])
    n = shown[0][1].n
    figure.suptitle(
        f"Split test, n = {n:,} vectors; bars: one SD over seeds; ring: recommended",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    return figure


@styled
def fronts(cells: Sequence[CellFront]) -> Figure:
    """L0 against FVU of every setting, one panel per hook, one colour per thought; lines join the fronts.

    Args:
        cells: The `cells` of a grid's result.
    """
    hooks = list(dict.fromkeys(cell.hook_name for cell in cells))
    thoughts = sorted({cell.thought_idx for cell in cells if cell.thought_idx is not None})
    columns = min(COLUMNS, len(hooks))
    rows = -(-len(hooks) // columns)
    figure = Figure(figsize=(1.2 + 3.0 * columns, 0.4 + 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    colours = mpl.colormaps["cividis"].resampled(max(len(thoughts), 2))
    for axis, hook in zip(axes[: len(hooks)], hooks, strict=True):
        for cell in (c for c in cells if c.hook_name == hook and c.points):
            thought = cell.thought_idx
            colour = GREY if thought is None else colours(thoughts.index(thought))
            at = {p.setting: (p.l0, p.fvu) for p in cell.points}
            axis.plot(*zip(*at.values(), strict=True), "o", ms=3, color=colour)
            label = cell.member if thought is None else f"thought {thought}"
            axis.plot(*zip(*(at[idx] for idx in cell.front), strict=True), color=colour, label=label)
        axis.set_title(hook or "several hooks")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(bottom=0)
        axis.grid()
    for axis in axes[len(hooks) :]:
        axis.set_axis_off()
    figure.supxlabel("L0 (latents a vector)", fontsize=9)
    figure.supylabel("FVU (0 = perfect)", fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    return figure


def save_both(figure: Figure, stem: Path) -> None:
    """Save a figure as PNG and PDF."""
    freeze(figure)
    save(figure, stem.with_suffix(".png"), dpi=160)
    save(figure, stem.with_suffix(".pdf"), metadata={"CreationDate": None})


def _panel(axis: Axes, rows: Sequence[tuple[SettingRow, OverSeeds]], name: str, choice: Choice) -> None:
    at = {row.idx: (_of(test, "l0").mean, _of(test, name).mean) for row, test in rows}
    if line := [at[idx] for idx in choice.front if idx in at]:
        axis.plot(*zip(*line, strict=True), color=GREY, lw=1.0, zorder=1)
    for row, test in rows:
        x, y = at[row.idx]
        bars = [_of(test, key).sd or 0.0 for key in ("l0", name)]
        colour = BLUE if row.idx in choice.front else GREY
        axis.errorbar(
            x, y, xerr=bars[0], yerr=bars[1], fmt="o", ms=4, color=colour, lw=1.0, capsize=2, zorder=2
        )
        if row.idx == choice.idx:
            axis.scatter(x, y, s=110, facecolors="none", edgecolors=VERMILION, lw=1.5, zorder=3)
        if len(rows) <= MOST_LABELS or row.idx in choice.front:
            label = " ".join(row.values.values()) if row.values else row.label
            axis.annotate(label, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=6.5, color=INK)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    if rows:
        axis.set_xticks(sorted({float(f"{x:.3g}") for x, _ in at.values()})[:: max(1, len(at) // 8)])
    low, high = axis.get_ylim()
    room = 0.06 * (high - (low if name == "fidelity" else 0))
    axis.set_ylim(low - room if name == "fidelity" else 0, high + room)
    axis.grid()


def _of(test: OverSeeds, name: str) -> Spread:
    spread = getattr(test, name)
    assert isinstance(spread, Spread)  # only settings that have it are drawn
    return spread
