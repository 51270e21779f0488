"""Runs made by hand: as much of each stage as lists and comparisons read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.core import seal


def stage(run: Path, name: str, folder: str, config: str, result: Mapping[str, Any]) -> Path:
    """A finished stage without tables."""
    place = run / folder
    place.mkdir(parents=True)
    (place / "config.toml").write_text(config)
    (place / "result.json").write_text(json.dumps({"stage": name, "digest": "0", "warnings": [], **result}))
    seal(place)
    return place


def run_of(
    root: Path, right: Sequence[bool], *, first: int = 0, says: str = "", k: int = 8, fvu: float = 0.2
) -> Path:
    """A run on problems p0, p1, ...: which of them the model answered right, and the SAE's FVU.

    Args:
        root: Where.
        right: By problem.
        first: Number of the first problem.
        says: Put into the problems' texts: the same ids may be other problems.
        k: A setting.
        fvu: Of the validation, with an interval 0.04 wide.
    """
    acts = stage(root, "extract", "acts", '[model]\nname = "toy"\n', {"kind": "thoughts"})
    ids = [f"p{first + i}" for i in range(len(right))]
    table = {
        "problem_id": ids,
        "group_id": ids,
        "question": [f"{says}{one}?" for one in ids],
        "correct": list(right),
    }
    pq.write_table(pa.table(table), acts / "problems.parquet")
    seal(acts)
    stage(root, "train", "sae", f'seed = 0\nacts = "{root}/acts"\n[sae]\nkind = "topk"\nk = {k}\n', {})
    number = {"value": fvu, "low": fvu - 0.02, "high": fvu + 0.02, "n": 100, "split": "test"}
    stage(root, "validate", "validate", "", {"headline": {"fvu": number, "l0": {"value": float(k)}}})
    return root
