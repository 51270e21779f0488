"""Whether all that is listed below a folder is there, and what was deleted on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from thoughtlens.core.errors import NotThereError
from thoughtlens.core.records import manifest
from thoughtlens.core.records.files import read_json
from thoughtlens.core.records.record import Record
from thoughtlens.core.stages.digests import UNHASHED, require_as_written
from thoughtlens.core.stages.registry import BY_NAME


def again(folder: Path) -> str:
    """The command that makes again what was deleted of a stage on purpose."""
    name = read_json(folder / "result.json").get("stage") if (folder / "result.json").is_file() else None
    if name in BY_NAME and (folder.parent / "config.toml").is_file():
        return BY_NAME[name].command(folder.parent)
    return f"thoughtlens {name} {quote(str(folder))} --out {quote(str(folder))}"


@dataclass(frozen=True, kw_only=True)
class Verified(Record):
    """What is listed below a folder is there, byte by byte."""

    root: str
    files: int
    bytes: int
    by_digest: list[str]
    """Stages of an earlier version, without a list of their files: compared as a whole, without their
    `config.toml` and `result.json`."""
    unlisted: list[str]
    """Files that nothing says the digest of."""
    removed: list[str]
    """Files that were deleted on purpose (`thoughtlens runs --clean`)."""
    again: list[str]
    """What makes those again."""


def verify(root: str | Path) -> Verified:
    """Read every file of a run, a stage, an SAE or a store, and compare it with its digest.

    Raises:
        NotThereError: nothing there.
        StoreError: files that are missing or of other bytes, or a list that is damaged; all are named.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotThereError(f"Expected a run, a stage, an SAE or a store at {root}, found no directory there")
    folders = {root} | {file.parent for file in root.rglob("*.json")}
    gone = {folder: names for folder in sorted(folders) if (names := manifest.removed(folder))}
    pairs = [(folder / name, one) for folder in folders for name, one in manifest.listed(folder).items()]
    files = manifest.files_in(root)
    pairs += [(file, one) for file in files for one in manifest.entries(file)]
    manifest.compare(pairs, once=False, skippable=False)
    known = {file for file, _ in pairs}
    old = [f for f in sorted(folders) if (f / "result.json").is_file() and f / "result.json" not in known]
    old = [folder for folder in old if "digest" in read_json(folder / "result.json")]
    for folder in old:
        require_as_written(folder)
    rest = [file for file in files if file not in known]
    if not (known or old):
        raise NotThereError(
            f"Expected a run, a stage, an SAE or a store at {root}, found none of their files"
        )
    return Verified(
        root=str(root),
        files=len(known),
        bytes=sum(file.stat().st_size for file in known),
        by_digest=[str(folder.relative_to(root)) for folder in old],
        unlisted=[
            str(f.relative_to(root))
            for f in rest
            if f.name in UNHASHED or not any(o in f.parents for o in old)
        ],
        removed=[str((folder / name).relative_to(root)) for folder, names in gone.items() for name in names],
        again=[again(folder) for folder in gone],
    )
