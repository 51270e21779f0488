"""Tables to scripts, scripts to pages."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thoughtlens.show.pages import PAGE, SCRIPTS, STYLE


def pack(table: Any) -> str:
    """JSON, gzip, base64: no character of it means anything to HTML, whatever the text it holds."""
    text = json.dumps(table, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def script(key: str, table: Any) -> str:
    """The script that hands a table over."""
    return f'TL.take("{key}","{pack(table)}");\n'


def significant(value: float | None, digits: int = 4) -> float | None:
    """A number rounded for showing; None for what is not a number."""
    return rounded([value], digits)[0]


def rounded(values: Iterable[float | None], digits: int = 3) -> list[float | None]:
    """The same of many numbers."""
    form = f".{digits}g"
    return [None if v is None or not math.isfinite(v) else float(format(v, form)) for v in values]


def write_folder(root: Path, overview: dict[str, Any], shards: dict[str, Any]) -> dict[str, int]:
    """`index.html`, its scripts, and one file a shard; returns sizes in bytes."""
    for name in (*SCRIPTS, STYLE, "vendor/LICENSES"):
        _write(root / "page" / name, (PAGE / name).read_text("utf-8"))
    tags = "".join(f'<script src="page/{name}"></script>\n' for name in SCRIPTS[:-1])
    tags += '<script src="data/run.js"></script>\n'
    tags += "".join(f'<script src="data/{m["key"]}/summary.js"></script>\n' for m in overview["members"][:1])
    tags += f'<script src="page/{SCRIPTS[-1]}"></script>\n'
    _write(root / "index.html", _html(f'<link rel="stylesheet" href="page/{STYLE}">', tags))
    _write(root / "data" / "run.js", script("run", overview))
    for key, table in shards.items():
        _write(root / "data" / f"{key}.js", script(key, table))
    first = [root / "index.html", root / "data" / "run.js", *(root / "page").rglob("*")]
    first += [root / "data" / m["key"] / "summary.js" for m in overview["members"][:1]]
    files = [f for f in root.rglob("*") if f.is_file()]
    return {
        "first_bytes": sum(f.stat().st_size for f in first if f.is_file()),
        "total_bytes": sum(f.stat().st_size for f in files),
    }


def write_single(root: Path, overview: dict[str, Any], shards: dict[str, Any]) -> dict[str, int]:
    """One `index.html` that holds everything; returns its size in bytes."""
    style = f"<style>{(PAGE / STYLE).read_text('utf-8')}</style>"
    code = [(PAGE / name).read_text("utf-8") for name in SCRIPTS]
    data = script("run", overview) + "".join(script(key, table) for key, table in shards.items())
    tags = "".join(f"<script>{part}</script>\n" for part in (*code[:-1], data, code[-1]))
    _write(root / "index.html", _html(style, tags))
    size = (root / "index.html").stat().st_size
    return {"first_bytes": size, "total_bytes": size}


def _html(style: str, scripts: str) -> str:
    template = (PAGE / "index.html").read_text("utf-8")
    return template.replace("<!-- style -->", style).replace("<!-- scripts -->", scripts)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
