"""The head of a safetensors file, for code that writes the data behind it itself, or maps them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from thoughtlens.core.errors import NotThereError, StoreError
from thoughtlens.core.records.record import Json

MAX_HEAD_BYTES = 100 * 2**20
"""As in the safetensors library."""
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of a number by its type."""


class Entry(NamedTuple):
    """A tensor of a file, and the bytes of the file that hold it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def head(
    tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, Entry]]:
    """The first bytes of a file with these tensors, given type and shape of each; and where each lies.

    The same bytes every time; the data begin at a multiple of 8.
    """
    table: Json = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * ITEM_BYTES[dtype]
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, _entries(table, 8 + len(text))


def read_head(file: Path) -> dict[str, Entry]:
    """Where each tensor of a file lies.

    Raises:
        NotThereError: no such file.
        StoreError: damaged, cut off, or a head larger than the file.
    """
    if not file.is_file():
        raise NotThereError(f"Expected a file at {file}, found none")
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEAD_BYTES):
            raise StoreError(
                f"{file} is truncated or not a safetensors file: its header claims {length:,} of "
                f"{size:,} bytes"
            )
        text = handle.read(length)
    try:
        entries = _entries(json.loads(text), 8 + length)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise StoreError(f"{file} is truncated or not a safetensors file: no header to read") from None
    if any(entry.end > size for entry in entries.values()):
        raise StoreError(f"{file} is truncated or not a safetensors file: {size:,} bytes are too few")
    return entries


def _entries(table: Json, start: int) -> dict[str, Entry]:
    found = {}
    for name, one in table.items():
        if name != "__metadata__":
            low, high = one["data_offsets"]
            found[name] = Entry(one["dtype"], tuple(one["shape"]), start + low, start + high)
    return found
