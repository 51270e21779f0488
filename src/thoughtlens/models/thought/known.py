"""Published checkpoints: what they do not say of themselves, and the accuracies that were published for them.

`known.json` has one entry for each, with the source of what it says; an id may be a pattern.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("known.json")


@dataclass(frozen=True)
class Published:
    """An accuracy that somebody published."""

    problems: str
    """Source and split, as `gates` takes them: `gsm8k:test`."""
    accuracy: float
    source: str


@dataclass(frozen=True)
class Known:
    """A published checkpoint, or several of one make."""

    id: str
    """Hub id, perhaps with a folder of the repository, or a pattern of such (`owner/*-codi`)."""
    family: str
    source: str
    """Where the settings were read."""
    base: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """By the names of the family's loader."""
    published: tuple[Published, ...] = ()


@functools.cache
def entries() -> tuple[Known, ...]:
    """Everything that is known, in the order of the file."""
    return tuple(
        Known(**{**one, "published": tuple(Published(**p) for p in one.get("published", ()))})
        for one in json.loads(FILE.read_text("utf-8"))
    )


def known(name: str) -> Known | None:
    """What is known of a hub id, or of a folder or file in it; the first entry that fits."""
    parts = name.split("/")
    names = ["/".join(parts[:n]) for n in range(len(parts), 1, -1)]
    return next((one for within in names for one in entries() if fnmatchcase(within, one.id)), None)


def known_accuracy(name: str, problems: str) -> float | None:
    """The accuracy that was published for a checkpoint on these problems, if one is known.

    Args:
        name: Hub id, perhaps with a folder of the repository.
        problems: Source and split, `gsm8k:test`.
    """
    found = known(name)
    return (
        next((one.accuracy for one in found.published if one.problems == problems), None) if found else None
    )
