"""Checkpoints that are whole or absent: safetensors + JSON, the last two kept."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thoughtlens.core import CheckpointError, Json, warn, write_json
from thoughtlens.sae.formats.files import write_tensors

SCHEMA = 1
KEEP = 2


class Checkpoints:
    """The checkpoints of one training run, in folders named by the rows seen."""

    def __init__(self, root: Path):
        self.root = root

    def save(self, rows_seen: int, tensors: dict[str, Tensor], table: Json) -> None:
        """Write one checkpoint and delete all but the last two."""
        self.root.mkdir(parents=True, exist_ok=True)
        part = self.root / "part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        write_tensors(tensors, part / "state.safetensors")
        write_json(part / "state.json", {"schema": SCHEMA, "rows_seen": rows_seen, **table})
        target = self.root / f"{rows_seen:015d}"
        shutil.rmtree(target, ignore_errors=True)
        os.rename(part, target)
        for old in self._folders()[:-KEEP]:
            shutil.rmtree(old)

    def latest(self) -> tuple[dict[str, Tensor], Json] | None:
        """The newest checkpoint that can be read, as (tensors, table); None where there is none.

        Raises:
            CheckpointError: checkpoints exist and none can be read.
        """
        folders = self._folders()
        for folder in reversed(folders):
            try:
                return _read(folder)
            except CheckpointError as error:
                warn(str(error))
        if folders:
            raise CheckpointError(
                f"No checkpoint in {self.root} can be read; delete that folder to start this SAE again"
            )
        return None

    def newest(self) -> Path | None:
        """Folder of the last checkpoint; None where there is none."""
        folders = self._folders()
        return folders[-1] if folders else None

    def clear(self) -> None:
        """Delete all checkpoints."""
        shutil.rmtree(self.root, ignore_errors=True)
        with contextlib.suppress(OSError):  # others have theirs there
            self.root.parent.rmdir()

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted(d for d in self.root.iterdir() if d.is_dir() and d.name.isdigit())


class ReadOnly(Checkpoints):
    """The checkpoints of a run that another process writes."""

    def save(self, rows_seen: int, tensors: dict[str, Tensor], table: Json) -> None:
        """Nothing."""

    def clear(self) -> None:
        """Nothing."""


def _read(folder: Path) -> tuple[dict[str, Tensor], Json]:
    try:
        table = json.loads((folder / "state.json").read_text("utf-8"))
        tensors = load_file(folder / "state.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"The checkpoint {folder} is damaged ({error})") from None
    if table.get("schema") != SCHEMA:
        raise CheckpointError(
            f"The checkpoint {folder} has schema {table.get('schema')!r}, this version reads {SCHEMA}"
        )
    return tensors, table
