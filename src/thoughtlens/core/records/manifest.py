"""What a finished folder holds, written last: the size and sha256 of every file in it.

`thoughtlens-files.json` is how damage is noticed: by `verify`, which reads everything; by a stage, which
compares what it is given before it starts; and by readers of large files, before they first use one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from thoughtlens.core.errors import StoreError
from thoughtlens.core.records.files import read_json, sha256, write_json
from thoughtlens.core.records.record import Record

LIST = "thoughtlens-files.json"
REMOVED = "thoughtlens-removed.json"
"""What was deleted on purpose, because the stage can make it again (`remove`)."""
SCHEMA = 1
UNCHECKED = "THOUGHTLENS_UNCHECKED"
"""Environment variable that turns off the comparison of inputs; results made so say it."""
LARGE = ".safetensors"
"""Files that are compared when they are first read, and not when a stage is given their folder."""
SHARDS = "shards"
"""A store lists its shards itself, in its `meta.json`."""
MAX_DEPTH = 4
"""Folders between a file and the manifest that lists it."""
THREADS = 8
SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Listed(Record):
    """A file that a folder should hold."""

    bytes: int | None
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ListedShard(Listed):
    """A file that a store's `meta.json` lists."""

    file: str


def unchecked() -> bool:
    """Whether the user asked that inputs are not compared with their digests."""
    return os.environ.get(UNCHECKED, "") not in ("", "0")


def seal(folder: Path, files: Iterable[Path] | None = None) -> None:
    """Write the manifest of a folder; of all files in it, unless some are named."""
    found = files_in(folder) if files is None else [file for file in files if file.is_file()]
    digests = _digests(found)
    table = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": digests[file]}
        for file in sorted(found)
    }
    write_json(folder / LIST, {"schema": SCHEMA, "files": table})


def relist(folder: Path) -> None:
    """Write the manifest of a copied folder anew: of the files that came along, as they are now."""
    named = read_json(folder / LIST)["files"]
    seal(folder, [folder / name for name in named])


def remove(folder: Path, names: Sequence[str]) -> None:
    """Delete listed files on purpose: they are noted first, so that a kill in between does no damage."""
    known = listed(folder)
    noted = removed(folder) | {name: known[name] for name in names if name in known}
    table = {name: {"bytes": one.bytes, "sha256": one.sha256} for name, one in sorted(noted.items())}
    write_json(folder / REMOVED, {"schema": SCHEMA, "files": table})
    for name in noted:
        file = folder / name
        file.unlink(missing_ok=True)
        for above in file.parents:
            if above in (folder, folder / SHARDS) or not above.is_dir() or any(above.iterdir()):
                break
            above.rmdir()


def removed(folder: Path) -> dict[str, Listed]:
    """What was deleted on purpose, and has not been made again.

    Raises:
        StoreError: the note of it is damaged.
    """
    file = folder / REMOVED
    if not file.is_file():
        return {}
    files = read_json(file).get("files")
    if not isinstance(files, dict):
        raise StoreError(f"{file} is damaged: it names no files; restore it")
    _require_names(folder, files)
    return {name: Listed.from_json(one) for name, one in files.items() if not (folder / name).exists()}


def listed(folder: Path) -> dict[str, Listed]:
    """The files that a folder should hold, by name: of its manifest, and of a store's `meta.json`; else none.

    What was deleted on purpose is not among them.

    Raises:
        StoreError: the manifest is damaged, or of another version.
    """
    gone = removed(folder)
    every = _listed(folder, _signature(folder / LIST), _signature(folder / "meta.json"))
    found = {name: one for name, one in every.items() if name not in gone}
    _require_names(folder, found)
    return found


def _require_names(folder: Path, names: Iterable[str]) -> None:
    """See that names are of files inside of a folder."""
    for name in names:
        parts = name.split("/")
        if "\0" in name or len(parts) > 99 or not all(0 < len(p.encode()) < 256 and p != ".." for p in parts):
            raise StoreError(f"{folder} lists a file {name!r}, a name that none can have; it is damaged")


def require_sound(files: Iterable[Path]) -> None:
    """Compare files with the manifests that list them, once per process; those that none lists pass.

    Raises:
        StoreError: missing, or of other bytes; all are named.
    """
    if unchecked():
        return
    compare([(file, one) for file in files for one in entries(file)])


def require_whole(folder: Path, *, deep: bool = True) -> bool:
    """Compare a finished folder with its manifest; large files by size alone, as their readers compare them.

    Args:
        folder: A stage's directory, or one inside of it.
        deep: Also compare the digests of what is not large.

    Returns:
        Whether a manifest lists it.

    Raises:
        StoreError: files that are missing, or of other bytes.
    """
    root = next((up for up in (folder, *_above(folder)) if (up / LIST).is_file()), None)
    if root is None:
        return False
    inside = [(root / name, one) for name, one in listed(root).items()]
    inside = [(file, one) for file, one in inside if file == folder or folder in file.parents]
    small = [pair for pair in inside if deep and pair[0].suffix != LARGE]
    compare([pair for pair in inside if pair not in small], sizes=True, skippable=deep)
    compare(small)
    return bool(inside)


def compare(
    pairs: Sequence[tuple[Path, Listed]], *, once: bool = True, sizes: bool = False, skippable: bool = True
) -> None:
    """Compare files with what they should be.

    Args:
        pairs: Files, and what they should be.
        once: Take the digest that was computed earlier in this process of a file that has not changed since.
        sizes: Only their sizes.
        skippable: Whether `--unchecked` leaves this out.

    Raises:
        StoreError: missing, or of other bytes; all are named.
    """
    there = {file: file.stat().st_size if file.is_file() else -1 for file, _ in pairs}
    wrong = [file for file, one in pairs if there[file] < 0 or one.bytes not in (None, there[file])]
    if not sizes:
        right = [(file, one) for file, one in pairs if file not in wrong]
        digests = _digests(list(dict.fromkeys(file for file, _ in right)), once=once)
        wrong += [file for file, one in right if digests[file] != one.sha256]
    if wrong := list(dict.fromkeys(wrong)):
        names = ", ".join(f"{file}{'' if there[file] >= 0 else ' (missing)'}" for file in wrong[:SHOWN])
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise StoreError(
            f"{len(wrong)} of {len(there)} files are not what was written there (size or sha256): "
            f"{names}{more}. Restore them, or delete that stage's directory and run it again"
            f"{'; if they were changed on purpose: --unchecked' if skippable else ''}"
        )


def _digests(files: list[Path], *, once: bool = True) -> dict[Path, str]:
    one = known_sha256 if once else sha256
    if len(files) < 2:
        return {file: one(file) for file in files}
    with ThreadPoolExecutor(min(THREADS, len(files))) as pool:
        return dict(zip(files, pool.map(one, files), strict=True))


def known_sha256(file: Path) -> str:
    """Of a file's bytes; computed once while it does not change."""
    return _known_sha256(file, _signature(file))


@lru_cache(maxsize=1 << 16)
def _known_sha256(file: Path, signature: tuple[int, ...]) -> str:
    return sha256(file)


@lru_cache(maxsize=1024)
def _listed(folder: Path, *signatures: tuple[int, ...]) -> dict[str, Listed]:
    found: dict[str, Listed] = {}
    if signatures[1] and (folder / SHARDS).is_dir():
        meta = read_json(folder / "meta.json")
        shards, tables = meta.get("shards"), meta.get("tables")
        if isinstance(shards, list) and isinstance(tables, dict):
            found |= {one.file: one for one in map(ListedShard.from_json, shards)}
            found |= {name: Listed(bytes=None, sha256=one) for name, one in tables.items()}
    if not signatures[0]:
        return found
    file = folder / LIST
    table = read_json(file)
    files = table.get("files")
    if table.get("schema") != SCHEMA or not isinstance(files, dict):
        raise StoreError(f"{file} is damaged, or of a version that is not known here; restore it")
    if file.read_text("utf-8") != json.dumps(table, indent=2, ensure_ascii=False) + "\n":
        raise StoreError(f"{file} is not as it was written; restore it")
    return found | {name: Listed.from_json(one) for name, one in files.items()}


def entries(file: Path) -> list[Listed]:
    """What the manifests above a file say of it: its own folder's, and its stage's."""
    found = (listed(folder).get(file.relative_to(folder).as_posix()) for folder in _above(file))
    return [one for one in found if one is not None]


def _above(path: Path) -> list[Path]:
    return list(path.parents)[:MAX_DEPTH]


def files_in(folder: Path) -> list[Path]:
    """Every file below a folder but (half) manifests, hidden ones, and shards, which a store lists itself."""
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        if Path(where) == folder and SHARDS in folders and (folder / "meta.json").is_file():
            folders.remove(SHARDS)
        yield from (Path(where) / name for name in names if not name.startswith((LIST, REMOVED, ".")))


def _signature(file: Path) -> tuple[int, ...]:
    """Changes whenever the file is written; empty where there is none."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
