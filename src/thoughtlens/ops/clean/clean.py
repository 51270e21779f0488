"""What of a run can be made again, how large it is, and its deletion.

Only files that a finished stage lists are touched, and only those in the size that it lists. Of activations
and codes a note says what was deleted (`thoughtlens-removed.json`), so that `verify` knows it; pages and SAEs
go as a whole, and their stage is then one that was not done.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from thoughtlens.core import (
    BY_NAME,
    ConfigError,
    NotThereError,
    Record,
    StoreError,
    again,
    held,
    listed,
    read_json,
    remove,
    require_sound,
)
from thoughtlens.show import bytes_of, is_run, runs_below, size, study_of


class Kind(NamedTuple):
    """Something that a stage can make again."""

    stage: str
    made: tuple[str, ...]
    """What that stage may call itself."""
    prefix: str = ""
    """Where its files lie in the stage's folder; empty: all of the folder."""


KINDS = {
    "shards": Kind("extract", ("extract",), "shards/"),
    "codes": Kind("interpret", ("interpret",), "codes/"),
    "explorer": Kind("explorer", ("explorer",)),
    "report": Kind("report", ("report",)),
    "sae": Kind("train", ("train",)),
}
"""By the name that is asked for; imported activations are none, as their files may be gone."""
USUAL = ("shards", "codes")


@dataclass(frozen=True, kw_only=True)
class Piece(Record):
    """Some files of a stage."""

    run: str
    kind: str
    path: str
    files: int
    bytes: int
    again: str
    """What makes them again."""


@dataclass(frozen=True, kw_only=True)
class Cleaned(Record):
    """What can be deleted, or was."""

    root: str
    pieces: list[Piece]
    bytes: int
    deleted: bool

    def text(self) -> str:
        """A line for each piece."""
        if not self.pieces:
            return f"nothing in {self.root} to delete that can be made again"
        lines = [
            f"{size(one.bytes).rjust(9)}  {one.path} ({one.files:,} file{'s' * (one.files > 1)}); "
            f"again: {one.again}"
            for one in self.pieces
        ]
        return "\n".join([*lines, f"{size(self.bytes)} {'deleted' if self.deleted else 'in all'}"])


def pieces_of(root: str | Path, kinds: Sequence[str] = USUAL) -> Cleaned:
    """What of the runs at a folder or below can be made again and is there.

    Raises:
        ConfigError: no such kind.
        NotThereError: no runs there.
    """
    root = Path(root)
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"--also: expected some of {', '.join(KINDS)}, got {kind!r}")
    if not root.is_dir():
        raise NotThereError(f"Expected a folder of runs at {root}, found none there")
    runs = sorted(path for path in runs_below(root) if is_run(path) and study_of(path) is None)
    if not runs:
        raise NotThereError(f"Expected runs in {root} or below, found none")
    found = [piece for run in runs for kind in kinds for piece in _piece(run, kind)]
    return Cleaned(root=str(root), pieces=found, bytes=sum(one.bytes for one in found), deleted=False)


def delete(found: Cleaned) -> Cleaned:
    """Delete these pieces.

    Raises:
        OccupiedError: another process is writing one of their stages.
    """
    for piece in found.pieces:
        kind, folder = KINDS[piece.kind], Path(piece.run) / BY_NAME[KINDS[piece.kind].stage].directory
        with held(folder.with_name(f"{folder.name}.tmp")):
            if kind.prefix:
                remove(folder, _names(folder, kind))
            else:
                gone = folder.with_name(f".{folder.name}.cleaned")
                shutil.rmtree(gone, ignore_errors=True)
                os.rename(folder, gone)
                shutil.rmtree(gone)
    return Cleaned(root=found.root, pieces=found.pieces, bytes=found.bytes, deleted=True)


def _piece(run: Path, name: str) -> Iterator[Piece]:
    kind = KINDS[name]
    folder = run / BY_NAME[kind.stage].directory
    if folder.is_symlink() or not (folder / "result.json").is_file():
        return
    try:
        made = read_json(folder / "result.json").get("stage") in kind.made
        names = _names(folder, kind) if made else []
        require_sound([folder / "result.json", *(one / "config.toml" for one in (folder, run))])
    except StoreError:
        return  # what is damaged is left for whoever looks into it: it might not be made again
    if names:
        place = folder / kind.prefix.rstrip("/")
        n_bytes = sum((folder / name).stat().st_size for name in names) if kind.prefix else bytes_of(folder)
        yield Piece(
            run=str(run), kind=name, path=str(place), files=len(names), bytes=n_bytes, again=again(folder)
        )


def _names(folder: Path, kind: Kind) -> list[str]:
    """Listed files of a kind that are there as they were written, by their size."""
    return [
        name
        for name, one in listed(folder).items()
        if name.startswith(kind.prefix)
        and (folder / name).is_file()
        and not (folder / name).is_symlink()
        and one.bytes in (None, (folder / name).stat().st_size)
    ]
