"""What is pushed: which kind of thing lies at a path, and which of its files go."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from thoughtlens.core import STAGES, DataError, NotThereError, read_json

LOOKED_FOR = (*(stage.directory for stage in STAGES if stage.recipe == "default"), "explorer")
"""Directories of a run that a reader of its card looks for."""
LEFT_OUT = ("checkpoints", "acts")
"""Folders that stay here: they are large, and made again from the configs."""
SAFE_NAME = re.compile(r"[\w+=@%,()-][\w.+=@%,() -]{0,199}", re.ASCII)
KINDS = {"sae": "one SAE", "stack": "several SAEs", "sweep": "a sweep", "grid": "a grid", "run": "a run"}


@dataclass(frozen=True)
class Contents:
    """What will be pushed."""

    root: Path
    kind: str
    """A key of KINDS."""
    files: list[str]
    """Relative, with forward slashes, sorted."""
    missing: list[str]
    """Stages of a run that are not there."""


def contents(path: str | Path, *, acts: bool = False) -> Contents:
    """What lies at a path.

    Args:
        path: A run, an `sae/` directory with one SAE or several, a sweep or a grid.
        acts: Also take the activations.

    Raises:
        NotThereError: nothing of that kind is there, or it is not finished.
        DataError: a link, or a name that not every system can hold.
    """
    root = Path(path).resolve()
    if not root.is_dir():
        unfinished = root.with_name(root.name + ".tmp").is_dir()
        hint = "; an unfinished one lies beside it: run its command again" if unfinished else ""
        raise NotThereError(f"Expected a run or an SAE to push at {path}, found no directory there{hint}")
    kind = _kind(root)
    missing = [f"{name} ({_why(root / name)})" for name in LOOKED_FOR if not (root / name).is_dir()]
    return Contents(root, kind, _files(root, acts), missing if kind == "run" else [])


def check_name(name: str) -> str:
    """A relative path with forward slashes whose every part is plain.

    Raises:
        DataError: absolute, with `..`, hidden, or with characters that some system gives a meaning.
    """
    parts = name.split("/")
    if PurePosixPath(name).is_absolute() or len(name) > 1000 or not all(map(SAFE_NAME.fullmatch, parts)):
        raise DataError(
            f"Refusing the file name {name[:200]!r}: expected a relative path of letters, digits and "
            f". _ - + = @ % , ( ), no part of which begins with a dot"
        )
    return name


def _kind(root: Path) -> str:
    if (root / "cfg.json").is_file() and (root / "sae.safetensors").is_file():
        return "sae"
    if (root / "result.json").is_file():
        stage = read_json(root / "result.json").get("stage")
        if stage in ("sweep", "grid"):
            return stage
    if (root / "config.toml").is_file() and (root / "sae" / "result.json").is_file():
        return "run"
    if any(root.glob("*/cfg.json")):
        return "stack"
    raise NotThereError(
        f"Expected a run with a finished sae/, an SAE (cfg.json, sae.safetensors), a folder of SAEs, a sweep "
        f"or a grid at {root}, found {', '.join(sorted(p.name for p in root.iterdir())[:8]) or 'nothing'}"
    )


def _why(folder: Path) -> str:
    return "unfinished" if folder.with_name(folder.name + ".tmp").is_dir() else "not made"


def _files(root: Path, acts: bool) -> list[str]:
    left_out = LEFT_OUT[:1] if acts else LEFT_OUT
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [d for d in folders if not _is_ours_alone(d) and d not in left_out]
        for name in (*folders, *names):
            if (Path(folder) / name).is_symlink():
                raise DataError(f"Refusing to push the link {Path(folder) / name}: put the file itself there")
        relative = Path(folder).relative_to(root)
        files += [check_name((relative / name).as_posix()) for name in names if not _is_ours_alone(name)]
    return sorted(files)


def _is_ours_alone(name: str) -> bool:
    """Whether it is of the way, not of the result."""
    return name.startswith((".", "offending_batch.")) or name.endswith((".tmp", ".part", ".tracking"))
