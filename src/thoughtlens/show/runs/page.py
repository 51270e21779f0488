"""Compared runs as one page that needs nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from thoughtlens import __version__
from thoughtlens.core import ConfigError, whole
from thoughtlens.show.pages.text import between, p_text, visible
from thoughtlens.show.pages.text import number as shown
from thoughtlens.show.runs.compare import Compared


def write_page(found: Compared, file: Path) -> None:
    """The page at `file`, with links to the runs' reports where they have one.

    Raises:
        ConfigError: not the name of an HTML file, or a folder.
    """
    if file.suffix != ".html" or file.is_dir():
        raise ConfigError(f"--out: expected the name of a page to write, such as compare.html, got {file}")
    environment = Environment(
        loader=PackageLoader("thoughtlens.show.runs"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"visible": visible}
    page = environment.get_template("compare.html.jinja").render(
        found=found, number=shown, between=lambda low, high: between(low, high, shown), p=p_text,
        reports=[_report(Path(run), file) for run in found.runs], version=__version__,
    )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as part:
        part.write_text(page, "utf-8")


def _report(run: Path, page: Path) -> str | None:
    report = run / "report" / "report.html"
    if not report.is_file():
        return None
    return quote(Path(os.path.relpath(report.resolve(), page.resolve().parent)).as_posix())
