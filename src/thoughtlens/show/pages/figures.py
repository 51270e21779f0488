"""Figures to files, the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure


def freeze(figure: Figure) -> None:
    """Lay a figure out once and for all; each format would do it again."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save(figure: Figure, file: Path, **options: Any) -> None:
    """Save a figure on white, the same bytes every time."""
    with rc_context({"pdf.fonttype": 42, "savefig.facecolor": "white"}):
        figure.savefig(file, **options)
