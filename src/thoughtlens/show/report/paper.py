"""Figures of the report for papers: one column wide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from thoughtlens.core import ConfigError, NotThereError, OccupiedError, whole
from thoughtlens.show.pages.run import Run
from thoughtlens.show.report.config import ReportConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from thoughtlens.show.report.blocks import Section

COLUMN = 3.25
"""Inches: the column of most papers of two."""
LEAST_HEIGHT = 2.2
"""Inches that a figure keeps when it becomes narrow, unless it was lower."""
LETTERS = 6.5
"""Points of the largest letters."""
MOST_STACKED = 4
"""Panels that are put under each other; more stay as they are."""
LONG = 30
"""Characters of a title or of a row's label before it is wrapped."""
FORMATS = ("pdf", "svg", "png")


def write_figure(run: str | Path, name: str, out: str | Path | None = None) -> Path:
    """Write one figure of a run's report, one column wide, without writing the report.

    Args:
        run: The run.
        name: The figure, as the report's folder `figures/` names it.
        out: A .pdf, .svg or .png file that is not there yet; unset: `NAME.pdf` here.

    Returns:
        The file.

    Raises:
        NotThereError: no run, or no such figure; says which there are.
        ConfigError: another format.
        OccupiedError: a file is there.
    """
    if not name:
        raise ConfigError("--figure: expected a figure's name, got an empty one")
    file = Path(out or f"{name}.pdf")
    kind = file.suffix[1:].lower()
    if kind not in FORMATS:
        raise ConfigError(f"--out: expected a file that ends in .{', .'.join(FORMATS)}, got {file}")
    if file.exists():
        raise OccupiedError(f"{file} exists already; choose another --out, or delete it")
    from thoughtlens.show.report.page import sections_of  # here: figures and tables take seconds to load

    top_latents: int = ReportConfig.model_fields["top_latents"].default
    _draw(sections_of(Run.open(run), top_latents), name, run, file)
    return file


def _draw(sections: Sequence[Section], name: str, run: str | Path, file: Path) -> None:
    from thoughtlens.show.pages.figures import save
    from thoughtlens.show.report.blocks import Picture

    there = {b.name: b.figure for section in sections for b in section.blocks if isinstance(b, Picture)}
    if name not in there:
        raise NotThereError(
            f"{run} has no figure {name!r}, but {', '.join(there) or 'none yet: its stages draw none'}"
        )
    figure = there[name]
    _narrow(figure)
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = file.suffix[1:].lower()
    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with whole(file) as part:
        save(figure, part, format=kind, dpi=300, metadata=dates.get(kind))


def _narrow(figure: Figure) -> None:
    """One column wide: few panels are put under each other, letters are small, long row labels wrapped."""
    width, height = figure.get_size_inches()
    panels = figure.axes
    specs = [panel.get_subplotspec() for panel in panels]
    shapes = {None if spec is None else spec.get_gridspec().get_geometry() for spec in specs}
    rows, columns = shapes.pop() or (1, 1) if len(shapes) == 1 else (1, 1)
    if columns > 1 and rows * columns <= MOST_STACKED:
        _stack(figure, panels)
        height = min(height / rows, LEAST_HEIGHT) * len(panels)
    else:
        height = max(height * COLUMN / width, min(height, LEAST_HEIGHT))
    figure.set_size_inches(COLUMN, height)
    _shrink(figure)
    _fit(figure)


def _stack(figure: Figure, panels: Sequence[Axes]) -> None:
    """Put panels under each other; one without row labels gets those of the first."""
    grid = figure.add_gridspec(len(panels), 1)
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    for i, panel in enumerate(panels):
        panel.set_subplotspec(grid[i])
        unsaid = not any(label.get_text() for label in panel.get_yticklabels())
        if unsaid and panel.get_ylim() == panels[0].get_ylim():
            panel.set_yticks(panels[0].get_yticks(), labels)
            panel.tick_params(axis="y", labelleft=True)


def _shrink(figure: Figure) -> None:
    """Small letters; long row labels wrapped, slanted column labels upright."""
    from matplotlib.text import Text

    for panel in figure.axes:
        labels = [label.get_text() for label in panel.get_yticklabels()]
        if max(map(len, labels), default=0) > LONG:
            panel.set_yticks(panel.get_yticks(), [fill(label, LONG) for label in labels])
            figure.set_figheight(max(figure.get_figheight(), 0.6 + 0.25 * len(labels)))
        for loc in ("left", "center"):
            if len(title := panel.get_title(loc)) > LONG:
                panel.set_title(fill(title, LONG), loc=loc, weight="bold")
        for label in panel.get_xticklabels():
            if label.get_rotation():
                label.set(rotation=90, ha="center", rotation_mode="default")
    for text in figure.findobj(lambda one: isinstance(one, Text)):
        assert isinstance(text, Text)
        text.set_fontsize(min(text.get_fontsize(), LETTERS))


def _fit(figure: Figure) -> None:
    """Leave room at both sides for what stands over the edge, such as a title wider than its panel."""
    left, right = 0.0, 0.0
    for _ in range(3):
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        left, right = left + max(0.0, -box.x0), right + max(0.0, box.x1 - COLUMN)
        if left + right > COLUMN / 4:
            return
        figure.set_layout_engine("constrained", rect=(left / COLUMN, 0, 1 - (left + right) / COLUMN, 1))
