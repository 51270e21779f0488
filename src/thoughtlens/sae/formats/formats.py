"""The formats by name, and which of them a path holds."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import NamedTuple

from thoughtlens.core import ConfigError, Json, NotThereError
from thoughtlens.sae.formats.base import Format
from thoughtlens.sae.formats.circuit_tracer import CircuitTracer
from thoughtlens.sae.formats.dictionary_learning import DictionaryLearning
from thoughtlens.sae.formats.gemma_scope import GemmaScope, GemmaScope2
from thoughtlens.sae.formats.openai import OpenAI
from thoughtlens.sae.formats.own import Own, to_sae
from thoughtlens.sae.formats.portable import Portable
from thoughtlens.sae.formats.published import Goodfire, LlamaScope, LlamaScope2, QwenScope
from thoughtlens.sae.formats.sae_lens import SAELens
from thoughtlens.sae.formats.sparsify import Sparsify
from thoughtlens.sae.kinds.base import SAE

POOLED = "pooled"
"""Name of the one SAE of a directory that holds no others; it lies in the directory itself."""
PARTS = ("cfg.json", "config.json", "hyperparams.json", "sae.safetensors", "sae_weights.safetensors")
"""Files that stand for the folder they lie in."""


GUESSED = ("openai",)
"""Formats that any folder with one `.pt` file could be of, such as one with the state of a trainer."""


class Found(NamedTuple):
    """An SAE on disk."""

    format: Format
    path: Path


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Own(),
        SAELens(),
        Sparsify(),
        DictionaryLearning(),
        GemmaScope(),
        GemmaScope2(),
        OpenAI(),
        CircuitTracer(),
        LlamaScope(),
        LlamaScope2(),
        QwenScope(),
        Goodfire(),
    )
}


def place(path: str | Path) -> Path:
    """The folder that a file of it stands for; other paths as they are."""
    path = Path(path)
    return path.parent if path.name in PARTS and path.is_file() else path


def recognise(path: str | Path) -> str | None:
    """Name of the format that a path holds; None for none.

    Raises:
        ConfigError: it looks like several.
    """
    found = [name for name, fmt in FORMATS.items() if fmt.finds(place(path))]
    if len(found) > 1:
        found = [name for name in found if name not in GUESSED]
    if len(found) > 1:
        raise ConfigError(
            f"{path} looks like {' and '.join(found)}: say which with --from, as in: thoughtlens convert "
            f"{quote(str(path))} --from {found[0]} --to thoughtlens --out {quote(f'{path}-{found[0]}')}"
        )
    return found[0] if found else None


def require_name(name: str) -> Format:
    """The format of a name.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in FORMATS:
        raise ConfigError(f"Expected a format among {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]


def names(path: str | Path) -> list[str]:
    """Names of the SAEs below a path, sorted; [POOLED] where it is one itself, [] where there is none."""
    root = place(path)
    if (name := recognise(root)) is not None:
        return [*FORMATS[name].parts(root)] or [POOLED]
    return sorted(d.name for d in root.iterdir() if d.is_dir() and recognise(d)) if root.is_dir() else []


def member_path(path: str | Path, name: str) -> Path:
    """Where a member of a directory lies: in a folder, or in a file of its name."""
    path = Path(path)
    if (path / name).is_dir():
        return path / name
    if name == POOLED:
        return path
    file = path / f"{name}.safetensors"
    return file if file.is_file() else path / name


def members(path: str | Path, name: str | None = None) -> dict[str, Found]:
    """The SAEs of a path by member name, each with its format, recognised or as named.

    Raises:
        NotThereError: nothing there that any format knows.
        ConfigError: an unknown name, or several formats in one place.
    """
    root = place(path)
    if not root.exists():
        raise NotThereError(f"Expected an SAE at {path}, found nothing there")
    if name is not None:
        fmt = require_name(name)
        return {one: Found(fmt, file) for one, file in (fmt.parts(root) or {POOLED: root}).items()}
    found = {member: member_path(root, member) for member in names(root)}
    if not found:
        own = (
            [member_path(root / "sae", one) for one in names(root / "sae")] if (root / "sae").is_dir() else []
        )
        there = f"; this run's SAEs: {', '.join(map(str, own))}" if own else ""
        raise NotThereError(
            f"Expected an SAE of {', '.join(FORMATS)} at {path}, found none of their files{there}"
        )
    return {member: Found(FORMATS[recognise(place) or ""], place) for member, place in found.items()}


def load_foreign(path: str | Path, name: str) -> SAE:
    """Another library's SAE as this project runs it; its provenance says where it is from.

    Raises:
        CheckpointError: damaged, hostile or inconsistent files.
        MismatchError: something that no kind here can do, by name.
    """
    portable = FORMATS[name].read(place(path))
    sae = to_sae(portable)
    sae.provenance |= came_from(name, portable)
    return sae


def came_from(name: str, sae: Portable) -> Json:
    """What the provenance of an SAE keeps of another library's files."""
    return {"imported": {"format": name, "notes": list(sae.notes)}}
