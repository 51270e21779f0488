"""Finished probes of a stage that is still going on, so that a killed one continues where it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from thoughtlens.core import whole
from thoughtlens.evals.probing.probes import Probe
from thoughtlens.evals.probing.topk import AtK

WHOLE = 0
"""Number under which a probe on all features is kept."""


def part(root: Path, arm: str, pooling: str) -> Path:
    """The file of one arm and pooling."""
    safe = pooling.replace("/", "_").replace(":", "_")
    return root / "parts" / f"{arm}.{safe}.npz"


def save(found: Probe | AtK, file: Path) -> None:
    """Write a probe, or those on k features for each k, whole or not at all."""
    probes: Mapping[int, Probe] = found.probes if isinstance(found, AtK) else {WHOLE: found}
    arrays = {f"{k}.{name}": value for k, p in probes.items() for name, value in vars(p).items()}
    if isinstance(found, AtK):
        arrays["chosen"] = found.chosen
    file.parent.mkdir(exist_ok=True)
    with whole(file) as part, part.open("wb") as handle:
        np.savez(handle, **arrays)


def load(file: Path) -> Probe | AtK:
    """What `save` wrote."""
    fields: dict[int, dict] = {}
    with np.load(file, allow_pickle=False) as table:
        for name in table.files:
            if name != "chosen":
                k, field = name.split(".")
                value = table[name]
                fields.setdefault(int(k), {})[field] = value if value.ndim else value.item()
        chosen = table["chosen"] if "chosen" in table.files else None
    probes = {k: Probe(**own) for k, own in fields.items()}
    return probes[WHOLE] if chosen is None else AtK(probes, chosen)
