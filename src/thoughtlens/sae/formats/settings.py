"""Settings files of other libraries as records: read leniently where nothing depends on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BeforeValidator

from thoughtlens.core import CheckpointError, Json, Record, StoreError, read_json

MAX_JSON_BYTES = 16 * 2**20
R = TypeVar("R", bound=Record)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _table(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _switch(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _ids(value: object) -> bool | list[int] | None:
    listed = isinstance(value, list) and all(isinstance(i, int) for i in value)
    return list(value) if listed else _switch(value)  # type: ignore[call-overload]


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _whole(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"expected a whole number from 1, got {value!r}")
    return value


TABLE = BeforeValidator(_table)
"""Before a record: anything but a table is an empty one."""
Text = Annotated[str | None, BeforeValidator(_text)]
"""A text; anything else is not known."""
Switch = Annotated[bool | None, BeforeValidator(_switch)]
"""Yes or no; anything else is not known."""
Ids = Annotated[bool | list[int] | None, BeforeValidator(_ids)]
"""Yes, no or token ids; anything else is not known."""
Count = Annotated[int | None, BeforeValidator(_count)]
"""A whole number from 0; anything else is not known."""
Table = Annotated[Json, TABLE]
"""A table; anything else is an empty one."""
Whole = Annotated[int | None, BeforeValidator(_whole)]
"""A whole number from 1."""


@dataclass(frozen=True, kw_only=True)
class Ours(Record):
    """What this project writes beside another library's own settings."""

    hook_name: Text = None
    hook_name_out: Text = None
    provenance: Table = field(default_factory=dict)


OursOrNone = Annotated[Ours, TABLE]


def read_table(file: Path) -> Json:
    """A settings file of reasonable size.

    Raises:
        NotThereError: no such file.
        CheckpointError: too large, not JSON, not an object.
    """
    try:
        return read_json(file, max_bytes=MAX_JSON_BYTES)
    except StoreError as error:
        raise CheckpointError(str(error)) from None


def peek(folder: Path, weights: str) -> Json:
    """The `cfg.json` of a folder that has weights of this name beside it; empty where there is none."""
    if not (folder / weights).is_file() or not (folder / "cfg.json").is_file():
        return {}
    try:
        return read_table(folder / "cfg.json")
    except CheckpointError:
        return {}


def settings_of(cls: type[R], table: Json, file: Path) -> R:
    """The settings that a file holds.

    Raises:
        CheckpointError: something of another type.
    """
    try:
        return cls.from_json(table)
    except StoreError as error:
        reason = str(error).removeprefix(f"{cls.__name__}: ").replace("Value error, ", "")
        raise CheckpointError(f"{file}: {reason}") from None


def read_settings(cls: type[R], file: Path) -> R:
    """`settings_of` what the file holds."""
    return settings_of(cls, read_table(file), file)
