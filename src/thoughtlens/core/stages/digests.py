"""Digests of stages and of what they are made from, and whether both are still what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thoughtlens.core.errors import MismatchError, NotThereError, StoreError
from thoughtlens.core.records import manifest
from thoughtlens.core.records.files import lock_of, read_json, sha256
from thoughtlens.core.records.manifest import known_sha256
from thoughtlens.core.stages.parts import FOLDER as PARTS

LOCK, BEGUN = ".lock", ".begun.json"
"""Of a stage that is not finished; the lock, of an earlier version."""
UNHASHED = {"config.toml", "result.json", LOCK, BEGUN, manifest.LIST, manifest.REMOVED}
UNHASHED_FOLDERS = {"shards", "checkpoints", PARTS}


def digest(path: str | Path, made: Path | None = None) -> str:
    """sha256 of a file, or the digest stored in a finished stage's result.

    What is made inside of a directory from it, at `made`, does not count.
    """
    path = Path(path)
    if path.is_file():
        return sha256(path)
    if (path / "result.json").is_file():
        stored = read_json(path / "result.json").get("digest")
        if isinstance(stored, str):
            return stored
    if path.is_dir():
        return digest_tree(path, made)
    raise NotThereError(f"Expected an input at {path}, found nothing there")


def digest_tree(root: Path, made: Path | None = None) -> str:
    """sha256 over names and contents of a directory's files.

    Shards count through the digests in `meta.json`; checkpoints and logs of the way do not count.
    """
    total = hashlib.sha256()
    own: tuple[Path, ...] = ()
    if made is not None:
        tmp = made.with_name(made.name + ".tmp")
        own = made, tmp, lock_of(tmp)
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root)
        if any(file.is_relative_to(path) for path in own):
            continue
        if file.is_file() and file.name not in UNHASHED and name.parts[0] not in UNHASHED_FOLDERS:
            total.update(f"{name.as_posix()}\0{known_sha256(file)}\n".encode())
    return total.hexdigest()


def require_as_written(path: Path, *, deep: bool = True) -> None:
    """See that a stage's directory, or a folder or file in one, is what the stage wrote.

    By its manifest; a stage of an earlier version, which has none, by its digest. What no stage has written
    passes.

    Args:
        path: What is read.
        deep: Compare contents; else only that everything is there, in its size.

    Raises:
        StoreError: missing or changed files.
    """
    if not manifest.require_whole(path, deep=deep) and (path / "result.json").is_file():
        stored = read_json(path / "result.json").get("digest")
        if stored is not None and stored != digest_tree(path):
            raise StoreError(
                f"{path} is not what its stage wrote: its files have another digest than its result.json "
                f"says. Restore it, or delete it and run that stage again"
            )


def inputs_of(result: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Digests of the inputs that a finished stage was made from, by name.

    Raises:
        StoreError: its result says something else there.
    """
    found = result.get("inputs", {})
    try:
        return {name: entry["digest"] for name, entry in found.items() if "digest" in entry}
    except (AttributeError, TypeError):
        raise StoreError(f"{folder / 'result.json'} is damaged: inputs is no table of inputs") from None


def require_made_from(folder: Path, inputs: Mapping[str, Path]) -> None:
    """See that a finished stage was made from these inputs, as far as it says and they are there.

    Raises:
        MismatchError: an input was replaced since, as by training again.
    """
    result = read_json(folder / "result.json")
    made_from = inputs_of(result, folder)
    for name, path in inputs.items():
        known = made_from.get(name)
        if known is not None and path.exists() and known != digest(path):
            raise MismatchError(
                f"{folder} was made from another {name} than {path} is now: delete {folder} and run "
                f"{result.get('stage')} again, or restore {path}"
            )
