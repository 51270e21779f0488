"""Sections -> one HTML page, one Markdown page, and the figures as PNG and PDF."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context

from thoughtlens.show.pages.figures import freeze, save
from thoughtlens.show.pages.links import link
from thoughtlens.show.pages.plots import INK
from thoughtlens.show.pages.text import markdown, visible
from thoughtlens.show.report.blocks import Picture, Section

DIRECTIONS = {"better": "up", "worse": "down"}
"""Style of the verdicts that name a direction."""

HASHED = re.compile(r'(?<=["#])[a-z]+[0-9a-f]{10}(?=[")])')
"""Names that matplotlib makes of coordinates, whose last bits differ from process to process."""
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


def write(root: Path, sections: Sequence[Section], page: dict[str, Any]) -> list[str]:
    """Write `report.html`, `report.md` and `figures/` under `root`.

    Args:
        root: The directory.
        sections: What the report says.
        page: What stands around it: title, warnings, definitions, provenance; see the templates.

    Returns:
        Names of the files.
    """
    pictures = [b for section in sections for b in section.blocks if isinstance(b, Picture)]
    for picture in pictures:
        freeze(picture.figure)
    svgs = {picture.name: Markup(svg(picture)) for picture in pictures}
    (root / "figures").mkdir(exist_ok=True)
    for picture in pictures:
        save(picture.figure, root / "figures" / f"{picture.name}.png", dpi=160)
        save(picture.figure, root / "figures" / f"{picture.name}.pdf", metadata={"CreationDate": None})
    for name, escape in (("report.html", True), ("report.md", False)):
        environment = Environment(
            loader=PackageLoader("thoughtlens.show.report"),
            autoescape=escape,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters |= {"md": markdown, "visible": visible, "link": link}
        text = environment.get_template(f"{name}.jinja").render(
            sections=sections, svgs=svgs, directions=DIRECTIONS, **page
        )
        (root / name).write_text(text, "utf-8")
    figures = [f"figures/{p.name}.{kind}" for p in pictures for kind in ("png", "pdf")]
    return ["report.html", "report.md", *figures]


def svg(picture: Picture) -> str:
    """A figure as inline SVG: text stays text, ink takes the page's colour, ids are the figure's own."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name, "savefig.transparent": True}):
        picture.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor").replace("'DejaVu Sans'", FONT)
    hashes = {found: f"{i}" for i, found in enumerate(dict.fromkeys(HASHED.findall(text)))}
    text = HASHED.sub(lambda found: hashes[found[0]], text)
    for before in ('id="', 'xlink:href="#', "url(#"):
        text = text.replace(before, f"{before}{picture.name}-")
    width = 72 * picture.figure.get_figwidth()
    style = f'role="img" style="width:{width * 96 / 72:.0f}px;max-width:100%;height:auto"'
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[\d.]+pt"', "", head)
    return f"{head} {style}>{rest}"
