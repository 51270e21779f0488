"""Files that are whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from thoughtlens.core.errors import NotThereError, OccupiedError, StoreError


def read_json(file: Path, *, max_bytes: int | None = None) -> dict[str, Any]:
    """A JSON object from disk, or one clear line; `max_bytes` is for files of unknown origin."""
    try:
        if max_bytes is not None and (size := file.stat().st_size) > max_bytes:
            raise StoreError(f"{file}: got {size:,} bytes of JSON, more than any of ours; it is damaged")
        table = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise NotThereError(f"Expected a file at {file}, found none") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{file} is not JSON ({error}); it is damaged or not ours") from None
    if not isinstance(table, dict):
        raise StoreError(f"Expected a JSON object in {file}, got a {type(table).__name__}")
    return table


_UMASK = os.umask(0o077)
os.umask(_UMASK)  # it can be read in no other way


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A name to write to; its bytes are forced to disk and become `file`, which is whole or absent.

    Its mode is that of new files, whatever the library that wrote it gave it.
    """
    part = file.with_name(file.name + ".part")
    yield part
    part.chmod(0o666 & ~_UMASK)
    fsync(part)
    os.replace(part, file)


def write_json(file: Path, table: dict[str, Any]) -> None:
    """A JSON file that is whole or absent."""
    text = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with whole(file) as part:
        part.write_text(text, "utf-8")


def sha256(file: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fsync_tree(root: Path) -> None:
    """Force every file of a directory to disk, so that a rename never outruns its data."""
    for path in (*root.rglob("*"), root):
        fsync(path)


def fsync(path: Path) -> None:
    """Force a file, or a directory's names, to disk; Windows does so with files that are open to write."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock_of(path: Path) -> Path:
    """The lock of whoever writes `path`: beside it, since Windows renames no folder with an open file."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Nobody else holds `path` within the block; the lock of a process that was killed opens.

    Raises:
        OccupiedError: somebody else holds it.
    """
    # Here, since it takes as long to load as all else that a misspelt key is refused with.
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_of(path))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise OccupiedError(
            f"Another process is writing {path}; wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # where an open file cannot be removed, the release does it
            lock_of(path).unlink()
        lock.release()
