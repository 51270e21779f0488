"""The families that docs/howto_own_model.md builds, as files."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "howto_own_model.md"


def codes() -> dict[str, str]:
    """File name -> the code that the page gives for it."""
    return dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S))


def write(folder: Path) -> Path:
    """The page's files in a folder."""
    for name, code in codes().items():
        (folder / name).write_text(code, "utf-8")
    return folder
