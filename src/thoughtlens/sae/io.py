"""SAEs by path: this project's own and other libraries', wherever one is asked for."""

from __future__ import annotations

from pathlib import Path

from thoughtlens.errors import MismatchError, NotThereError
from thoughtlens.sae.base import SAE
from thoughtlens.sae.native import load_native, save, write_tensors

__all__ = ["load", "load_members", "member_names", "save", "write_tensors"]


def load(path: str | Path, device: str = "cpu") -> SAE:
    """The SAE in a directory.

    Raises:
        NotThereError: no SAE there.
        CheckpointError: unknown schema or kind, keys missing or left over, wrong shapes, NaN weights,
            a truncated or foreign file.
    """
    return load_native(path, device)


def load_members(path: str | Path, device: str = "cpu") -> dict[str, SAE]:
    """All SAEs of a `sae/` directory by member name; the name of a single one is "".

    Raises:
        MismatchError: a transcoder or crosscoder, which no stage after training reads yet.
    """
    members = {name: load(Path(path) / name, device) for name in member_names(path)}
    for name, sae in members.items():
        if not sae.reconstructs:
            raise MismatchError(
                f"Expected SAEs that reconstruct their own input, got a {sae.kind} at {Path(path) / name}; "
                f"load it with sae.load, and train one of another kind for this stage"
            )
    return members


def member_names(path: str | Path) -> list[str]:
    """Names of the SAEs in a directory, sorted; [""] where it holds one SAE itself."""
    root = Path(path)
    if (root / "cfg.json").is_file():
        return [""]
    names = sorted(d.parent.name for d in root.glob("*/cfg.json")) if root.is_dir() else []
    if not names:
        raise NotThereError(f"Expected an SAE (cfg.json) or one folder per SAE at {root}, found none")
    return names
