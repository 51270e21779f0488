"""The trade-offs of a grid's cells as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from thoughtlens.show.plots import GREY, styled

COLUMNS = 3


@styled
def fronts(cells: Sequence[Mapping[str, Any]]) -> Figure:
    """L0 against FVU of every setting, one panel a hook, one colour a thought; lines join the fronts.

    Args:
        cells: The `cells` of a grid's result.
    """
    hooks = list(dict.fromkeys(cell["hook_name"] for cell in cells))
    thoughts = sorted({cell["thought_idx"] for cell in cells if cell["thought_idx"] is not None})
    columns = min(COLUMNS, len(hooks))
    rows = -(-len(hooks) // columns)
    figure = Figure(figsize=(1.2 + 3.0 * columns, 0.4 + 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    colours = mpl.colormaps["cividis"].resampled(max(len(thoughts), 2))
    for axis, hook in zip(axes[: len(hooks)], hooks, strict=True):
        for cell in (c for c in cells if c["hook_name"] == hook and c["points"]):
            thought = cell["thought_idx"]
            colour = GREY if thought is None else colours(thoughts.index(thought))
            at = {p["setting"]: (p["l0"], p["fvu"]) for p in cell["points"]}
            axis.plot(*zip(*at.values(), strict=True), "o", ms=3, color=colour)
            label = cell["member"] if thought is None else f"thought {thought}"
            axis.plot(*zip(*(at[idx] for idx in cell["front"]), strict=True), color=colour, label=label)
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
