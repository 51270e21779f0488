"""Tables to scripts, scripts to pages."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thoughtlens.core import Json
from thoughtlens.show.pages.pages import PAGE, SCRIPTS, STYLE


def pack(table: Any) -> str:
    """JSON, gzip, base64: no character of it means anything to HTML, whatever the text it holds."""
    text = json.dumps(table, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def script(key: str, table: Any) -> str:
    """The script that hands a table over."""
    return f'TL.take("{key}","{pack(table)}");\n'


POWERS = np.array([float(f"1e{k}") for k in range(301)])


def significant(value: float | None, digits: int = 4) -> float | None:
    """A number rounded for showing; None for what is not a number."""
    return None if value is None or not math.isfinite(value) else float(format(value, f".{digits}g"))


def rounded(values: Iterable[float | None] | np.ndarray, digits: int = 3) -> list[float | None]:
    """The same of many numbers."""
    exact = np.asarray(values if isinstance(values, np.ndarray) else list(values), np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        places = digits - 1 - np.floor(np.log10(np.abs(exact)))
        at = np.clip(np.nan_to_num(places), -300, 300).astype(np.int64)
        up, down = POWERS[np.maximum(at, 0)], POWERS[np.maximum(-at, 0)]
        shown = np.round(exact / down * up) / up * down
    found = shown.tolist()
    return found if np.isfinite(exact).all() else [v if math.isfinite(v) else None for v in found]


class Sizes(NamedTuple):
    """Bytes before the first click, and in all."""

    first: int
    total: int


class Folder:
    """Pages in a folder: `index.html`, its scripts, and one file for each shard, written when it comes."""

    def __init__(self, root: Path, first: Sequence[str]) -> None:
        """`first`: keys of the SAEs whose summaries are loaded at once."""
        self.root = root
        self.at_once = ["data/run.js", *(f"data/{key}/summary.js" for key in first)]

    def put(self, shards: Mapping[str, Any]) -> None:
        """Take tables by key."""
        for key, table in shards.items():
            _write(self.root / "data" / f"{key}.js", script(key, table))

    def finish(self, overview: Json) -> Sizes:
        """Write the page, with the first page's table."""
        root = self.root
        for name in (*SCRIPTS, STYLE, "vendor/LICENSES"):
            _write(root / "page" / name, (PAGE / name).read_text("utf-8"))
        sources = [*(f"page/{name}" for name in SCRIPTS[:-1]), *self.at_once, f"page/{SCRIPTS[-1]}"]
        tags = "".join(f'<script src="{source}"></script>\n' for source in sources)
        _write(root / "index.html", _html(f'<link rel="stylesheet" href="page/{STYLE}">', tags))
        self.put({"run": overview})
        loaded = [root / "index.html", *(root / name for name in self.at_once), *(root / "page").rglob("*")]
        return Sizes(_bytes(loaded), _bytes(root.rglob("*")))


class Single:
    """One `index.html` that holds everything."""

    def __init__(self, root: Path) -> None:
        self.file = root / "index.html"
        self.scripts: list[str] = []

    def put(self, shards: Mapping[str, Any]) -> None:
        """Take tables by key."""
        self.scripts += [script(key, table) for key, table in shards.items()]

    def finish(self, overview: Json) -> Sizes:
        """Write the page, with the first page's table."""
        style = f"<style>{(PAGE / STYLE).read_text('utf-8')}</style>"
        code = [(PAGE / name).read_text("utf-8") for name in SCRIPTS]
        data = script("run", overview) + "".join(self.scripts)
        tags = "".join(f"<script>{part}</script>\n" for part in (*code[:-1], data, code[-1]))
        _write(self.file, _html(style, tags))
        size = _bytes([self.file])
        return Sizes(size, size)


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


def _html(style: str, scripts: str) -> str:
    template = (PAGE / "index.html").read_text("utf-8")
    return template.replace("<!-- style -->", style).replace("<!-- scripts -->", scripts)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
