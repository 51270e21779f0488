"""The files that may be asked for: those that the explorer's folder had at the start, and the live page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from thoughtlens.core import NotThereError
from thoughtlens.show.pages.pages import PAGE

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
OWN = ("index.html", "live.js", "link.js")
SHARED = ("style.css", "store.js", "parts.js", "vendor/htm-preact.js")
"""Parts of the explorer that the live page uses."""
LINK = b'<script src="/live/link.js"></script>\n'


@dataclass(frozen=True)
class File:
    """What is answered, and its media type."""

    content: bytes
    media_type: str


class Files:
    """Looked up by the address as it was sent: whatever is not in the table does not exist."""

    def __init__(self, explorer: Path) -> None:
        self.root = explorer.resolve()
        if not (self.root / "index.html").is_file():
            raise NotThereError(f"Expected the explorer's index.html in {explorer}, found none")
        self._paths = {
            "/" + path.relative_to(self.root).as_posix(): path
            for path in self.root.rglob("*")
            if path.suffix in TYPES and path.is_file() and path.resolve() == path
        }

    @cached_property
    def live(self) -> dict[str, File]:
        """The live page, from the package."""
        own = resources.files("thoughtlens.show.serve") / "page"
        sources = [(name, own) for name in OWN] + [(name, PAGE) for name in SHARED]
        found = {f"/live/{name}": File((root / name).read_bytes(), _type(name)) for name, root in sources}
        return found | {"/live/": found["/live/index.html"]}

    def find(self, address: str) -> File | None:
        """The file at an address; None where there is none.

        A file that was replaced by a link since the start is none.
        """
        if address in self.live:
            return self.live[address]
        path = self._paths.get("/index.html" if address == "/" else address)
        if path is None or path.resolve() != path:
            return None
        try:
            with open(path, "rb", opener=_unless_link) as file:
                content = file.read()
        except OSError:
            return None
        if path == self.root / "index.html":
            content = content.replace(b"</body>", LINK + b"</body>", 1)
        return File(content, _type(path.name))


def _unless_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _type(name: str) -> str:
    return TYPES[Path(name).suffix]
