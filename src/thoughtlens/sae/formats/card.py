"""What somebody's SAE says of itself before anything is run: what it reads, where, how it was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from thoughtlens.core import MismatchError, NotThereError, Record
from thoughtlens.sae.formats import formats, hooks
from thoughtlens.sae.formats.catalogue import find
from thoughtlens.sae.formats.native import read_header
from thoughtlens.sae.formats.open import local
from thoughtlens.sae.formats.says import Says, same_name


@dataclass(frozen=True, kw_only=True)
class Card(Record):
    """An SAE on this machine, as its files and its release describe it."""

    path: str
    format: str
    rule: str
    d_in: int
    d_sae: int
    d_out: int
    hook: str
    """Where it reads, in this project's words."""
    hook_out: str | None
    """Where a transcoder writes."""
    says: Says
    release: str | None
    """In the catalogue."""
    notes: tuple[str, ...]

    @property
    def hook_names(self) -> list[str]:
        """What has to be read for it."""
        return [self.hook, *([self.hook_out] if self.hook_out else [])]

    def is_of(self, model: str) -> bool:
        """Whether it may be of this model; one in a folder of another name counts by architecture."""
        return self.says.model is None or same_name(self.says.model, model)


def card(source: str | Path, *, source_format: str | None = None, hook_name: str | None = None) -> Card:
    """The one SAE at a path, on the hub, or of a release.

    Args:
        source: As `load_sae` takes it.
        source_format: Where its files do not tell.
        hook_name: Where it reads, if it does not say so.

    Raises:
        NotThereError: no SAE there, or several.
        ConfigError: two formats in one place, or a release that cannot be read.
        MismatchError: of thoughts; a hook that nobody knows, or a head or name that no hook here gives.
        CheckpointError: damaged files.
    """
    known = None if Path(source).exists() else find(str(source))
    path = local(source)
    members = formats.members(path, source_format)
    if any(_is_of_thoughts(one) for one in members.values()):
        run = next((str(up) for up in (path, *path.parents) if (up / "acts").is_dir()), None)
        raise MismatchError(
            f"{source} was trained on continuous thoughts, not on text; look at the run that it is of"
            + ("" if run is None else f": thoughtlens view {quote(run)}")
        )
    if len(members) > 1:
        raise NotThereError(
            f"Expected one SAE at {source}, found {len(members)} in its folders "
            f"({', '.join(list(members)[:3])}, ..); add a folder's name"
        )
    ((fmt, place),) = members.values()
    sae = fmt.read(place)
    says = sae.says.over(known.release.says) if known else sae.says
    hook = sae.hook or hook_name
    if hook is None or not hooks.is_ours(hook):
        what = (
            f"was trained at {hook}, which no hook here is" if hook else "does not say where it was trained"
        )
        raise MismatchError(f"{source} {what}; say it, as in: --hook layers.8:out")
    if hook_name and not sae.hook_assumed and hooks.meaning(hook_name) != hooks.meaning(hook):
        raise MismatchError(f"{source} says its hook is {hook!r}, not {hook_name!r}; leave --hook out")
    if sae.transcoder and sae.hook_out is None:
        raise MismatchError(f"{source} is a transcoder that does not say what it predicts")
    return Card(
        path=str(place),
        format=fmt.name,
        rule=sae.rule,
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        d_out=sae.d_out,
        hook=hook_name or hook,
        hook_out=sae.hook_out if sae.transcoder else None,
        says=says,
        release=known.release.release if known else None,
        notes=sae.notes,
    )


def _is_of_thoughts(found: formats.Found) -> bool:
    own = found.format.name == "thoughtlens"
    return own and bool(read_header(found.path).provenance.get("thought_convention"))
