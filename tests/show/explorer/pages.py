"""What the data files of an explorer hold."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any


def unpack(text: str) -> dict[str, Any]:
    """The tables in a text of scripts, by key."""
    calls = re.findall(r'TL\.take\("([^"]+)","([^"]+)"\);', text)
    return {key: json.loads(gzip.decompress(base64.b64decode(packed))) for key, packed in calls}


def tables(root: Path) -> dict[str, Any]:
    """All tables of a folder."""
    found = {}
    for file in sorted((root / "data").rglob("*.js")):
        found |= unpack(file.read_text())
    return found


def rows(found: dict[str, Any], kind: str, lists: list[list[Any]]) -> list[dict[str, Any]]:
    """Rows that pages get as lists, with the names that the overview gives their columns."""
    return [dict(zip(found["run"]["columns"][kind], row, strict=True)) for row in lists]
