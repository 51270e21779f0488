"""What the interventions of a run found, as every page needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thoughtlens.show.run import Run

FOLDER = "intervene"


def found_in(run: Run) -> dict[str, Path]:
    """Finished interventions of a run: `intervene/` itself, or the folders in it."""
    root = run.root / FOLDER
    places = [root, *(sorted(root.iterdir()) if root.is_dir() else [])]
    return {p.name: p for p in places if p.suffix != ".tmp" and (p / "result.json").is_file()}


def by_twin(result: dict[str, Any]) -> bool:
    """Whether an intervention's effect is how many answers became the twin's, not a change of accuracy."""
    return result["edit"] in ("patch", "route")


def strips_of(result: dict[str, Any]) -> dict[str, list[tuple[str, int, float]]]:
    """By edit, the effect at each (layer, thought) that was edited alone."""
    key = "corrupted" if by_twin(result) else "difference"
    values: dict[str, list[tuple[str, int, float]]] = {}
    for row in result["effects"]:
        alone = row["control"] is None and row["thought_idx"] is not None and row.get("dose") is None
        if alone and row["site"]:
            layer = "" if row["layer"] is None else f" {row['layer']}"
            values.setdefault(row["edit"], []).append((row["site"] + layer, row["thought_idx"], row[key]))
    return values
