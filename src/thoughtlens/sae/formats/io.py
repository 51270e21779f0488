"""SAEs by path: this project's own and other libraries', wherever one is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from thoughtlens.core import MismatchError, NotThereError, choose_device, warn
from thoughtlens.sae.formats import formats
from thoughtlens.sae.formats.formats import POOLED, member_path
from thoughtlens.sae.formats.hooks import meaning
from thoughtlens.sae.formats.native import load_native, save
from thoughtlens.sae.kinds.base import SAE

__all__ = ["POOLED", "load", "load_members", "member_names", "member_path", "save"]


def load(path: str | Path, device: str = "cpu") -> SAE:
    """The SAE at a path: this project's own, or any format of `convert`, recognised from its files.

    Raises:
        MismatchError: another library's SAE that no kind here can express; names what is missing.
        NotThereError: no SAE there, or a folder of several.
        ConfigError, ResourceError: not the name of a device, or none that is here.
        CheckpointError: unknown schema or kind, keys missing or left over, wrong shapes, NaN weights,
            a truncated or foreign file.
    """
    where = str(choose_device(str(device)))
    fmt, found = formats.recognise(path), formats.names(path)
    if found and found != [POOLED]:
        shown = ", ".join((*found[:3], *(["..."] if len(found) > 3 else [])))
        raise NotThereError(
            f"Expected one SAE at {path}, found {len(found)} in it ({shown}); give the path of one of "
            f"them, or take all of them with sae.load_members"
        )
    if fmt in (None, "thoughtlens"):
        return load_native(formats.place(path), where)
    return formats.load_foreign(path, fmt).to(where)


def load_members(
    path: str | Path,
    device: str = "cpu",
    *,
    joined: bool = False,
    hooks: Mapping[str, int] | None = None,
    only: Sequence[str] | None = None,
) -> dict[str, SAE]:
    """All SAEs of a `sae/` directory by member name; a single one is "pooled".

    Args:
        path: The directory, or any path that `load` takes.
        device: Where to put them.
        joined: Also take transcoders and crosscoders, which do not give back one vector for one.
        hooks: Widths of the hooks at hand, such as `StoreMeta.d_in`: an SAE of the same module under another
            name takes theirs, and another library's that does not say where it was trained is taken for the
            only one of its width.
        only: Names of those to load, of `member_names`; None: all.

    Raises:
        MismatchError: one of these, where they are not taken; or an SAE of unknown hook.
    """
    members = {name: load(member_path(path, name), device) for name in only or member_names(path)}
    for name, sae in members.items():
        for note in _notes(sae):
            warn(f"{member_path(path, name)}: {note}")
        if not (sae.reconstructs or joined):
            raise MismatchError(
                f"Expected SAEs that reconstruct their own input, got a {sae.kind} at "
                f"{member_path(path, name)}: only validate, interpret, explain, geometry, classify, lens, "
                f"fire, think, serve and the pages take it; train one of another kind, such as sae.kind=topk"
            )
        if not sae.hook_names and (hooks or "imported" in sae.provenance):
            sae.hook_names = [_only_hook(sae, member_path(path, name), hooks or {})]
        elif sae.cells is None and len(sae.hook_names) == 1:
            _rename(sae, hooks or {})
    return members


def _notes(sae: SAE) -> list[str]:
    """What a user should know about an imported SAE."""
    found = sae.provenance.get("imported")
    notes = found.get("notes") if isinstance(found, dict) else None
    return [str(note) for note in notes] if isinstance(notes, list) else []


def _rename(sae: SAE, hooks: Mapping[str, int]) -> None:
    """Give an SAE the names that a store has for its modules."""
    sae.hook_names = [_known_as(hook, hooks) for hook in sae.hook_names]
    sides = {key: getattr(sae.cfg, key, None) for key in ("hook_in", "hook_out")}
    known = {key: _known_as(hook, hooks) for key, hook in sides.items() if hook}
    sae.cfg = sae.cfg.model_copy(update=known)


def _known_as(hook: str, hooks: Mapping[str, int]) -> str:
    """The name that a store has for the same module."""
    same = [theirs for theirs in hooks if meaning(theirs) == meaning(hook)]
    return same[0] if hook not in hooks and len(same) == 1 else hook


def _only_hook(sae: SAE, path: Path, hooks: Mapping[str, int]) -> str:
    fitting = [hook for hook, width in hooks.items() if width == sae.d_in]
    if len(fitting) != 1:
        known = f", and {len(fitting)} of those at hand ({', '.join(hooks)}) have its width {sae.d_in}"
        named = quote(f"{path.with_suffix('')}-named")
        raise MismatchError(
            f"{path} does not say at which hook it was trained{known if hooks else ''}. Say it, and give "
            f"what this makes: thoughtlens convert {quote(str(path))} --to thoughtlens "
            f"--hook {[*fitting, *hooks, 'layers.8:out'][0]} --out {named}"
        )
    warn(f"{path} does not say at which hook it was trained: taken for {fitting[0]}")
    return fitting[0]


def member_names(path: str | Path) -> list[str]:
    """Names of the SAEs at a path, sorted; ["pooled"] where it is one SAE itself."""
    if (Path(path) / "cfg.json").is_file():
        return [POOLED]
    if not (found := formats.names(path)):
        raise NotThereError(f"Expected an SAE or one folder per SAE at {path}, found none")
    return found
