"""What the explorer and the server share: the page's own files, and an explorer that is up to date."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from thoughtlens.core import BY_NAME, OccupiedError, Result, read_json
from thoughtlens.show.explorer.config import ExplorerConfig

PAGE = resources.files("thoughtlens.show.explorer") / "page"
SCRIPTS = (
    "vendor/htm-preact.js", "store.js", "parts.js", "charts.js", "latent.js", "compare.js", "problem.js",
    "overview.js", "app.js",
)  # fmt: skip
STYLE = "style.css"


def refreshed(cfg: ExplorerConfig, out: str | Path) -> Result:
    """The explorer at `out`; one that the runs or the settings have outgrown is written again.

    Raises:
        OccupiedError: something else than an explorer is at `out`.
    """
    stage = BY_NAME["explorer"]
    try:
        return stage.run(cfg, out)
    except OccupiedError:
        result = Path(out) / "result.json"
        if not result.is_file() or read_json(result).get("stage") != "explorer":
            raise
        shutil.rmtree(out)
        return stage.run(cfg, out)
