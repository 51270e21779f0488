"""SAEs by path: this project's own and other libraries', wherever one is asked for."""

from __future__ import annotations

from pathlib import Path

from thoughtlens.errors import MismatchError, NotThereError
from thoughtlens.sae.base import SAE
from thoughtlens.sae.convert import formats
from thoughtlens.sae.native import load_native, save, write_tensors

__all__ = ["load", "load_members", "member_names", "save", "write_tensors"]


def load(path: str | Path, device: str = "cpu") -> SAE:
    """The SAE at a path: this project's own, or any format of `convert`, recognised from its files.

    Raises:
        MismatchError: another library's SAE that no kind here can express; names what is missing.
        NotThereError: no SAE there.
        CheckpointError: unknown schema or kind, keys missing or left over, wrong shapes, NaN weights,
            a truncated or foreign file.
    """
    fmt = formats.recognise(path)
    if fmt in (None, "thoughtlens"):
        return load_native(formats.place(path), device)
    return formats.load_foreign(path, fmt).to(device)


def load_members(path: str | Path, device: str = "cpu", *, joined: bool = False) -> dict[str, SAE]:
    """All SAEs of a `sae/` directory by member name; the name of a single one is "".

    Args:
        path: The directory.
        device: Where to put them.
        joined: Also take transcoders and crosscoders, which do not give back one vector for one.

    Raises:
        MismatchError: one of these, where they are not taken.
    """
    members = {name: load(Path(path) / name, device) for name in member_names(path)}
    for name, sae in members.items():
        if not (sae.reconstructs or joined):
            raise MismatchError(
                f"Expected SAEs that reconstruct their own input, got a {sae.kind} at {Path(path) / name}; "
                f"load it with sae.load, and train one of another kind for this stage"
            )
    return members


def member_names(path: str | Path) -> list[str]:
    """Names of the SAEs at a path, sorted; [""] where it is one SAE itself."""
    if (Path(path) / "cfg.json").is_file():
        return [""]
    if not (found := formats.names(path)):
        raise NotThereError(f"Expected an SAE or one folder per SAE at {path}, found none")
    return found
