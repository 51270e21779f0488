"""The finished stages of a run directory, as the report reads them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.core import NotThereError, StoreError, read_json, read_result

STAGES = {
    "extract": "acts",
    "train": "sae",
    "validate": "validate",
    "interpret": "interpret",
    "classify": "classify",
    "replay": "replay",
}
"""Folder of each stage that a report tells of."""
OPTIONAL = ("replay",)
"""Stages that are not missed where they are not there."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run directory; stages that are not there are None."""

    root: Path

    @classmethod
    def open(cls, root: str | Path) -> Run:
        """The run at `root`.

        Raises:
            NotThereError: no directory, or none of the stages in it.
        """
        run = cls(Path(root))
        if not run.root.is_dir():
            raise NotThereError(f"Expected a run directory at {root}, found none; make one: thoughtlens run")
        if not run.results:
            raise NotThereError(
                f"Expected a finished stage ({', '.join(STAGES.values())}) in {root}, found none; "
                f"run one first"
            )
        return run

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """`result.json` of every finished stage, in order."""
        found = {stage: self.root / folder for stage, folder in STAGES.items()}
        return {stage: read_result(path) for stage, path in found.items() if (path / "result.json").is_file()}

    def table(self, stage: str, name: str) -> list[dict[str, Any]]:
        """A stage's Parquet table as rows; empty where the stage or the table is not there."""
        file = self.root / STAGES[stage] / name
        if stage not in self.results or not file.is_file():
            return []
        try:
            return pq.read_table(file).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{file} is damaged ({str(error).splitlines()[0]}); run {stage} again") from None

    @cached_property
    def meta(self) -> dict[str, Any]:
        """`meta.json` of the activation store; empty without one."""
        file = self.root / "acts" / "meta.json"
        return read_json(file) if file.is_file() else {}

    @property
    def kind(self) -> str:
        """text or thoughts."""
        return self.meta.get("kind") or next(r["kind"] for r in self.results.values() if "kind" in r)
