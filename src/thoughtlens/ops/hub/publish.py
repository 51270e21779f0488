"""SAEs and runs on the Hugging Face hub or in a directory: pushed with a card, every byte compared."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from thoughtlens import __version__
from thoughtlens.core import (
    BY_NAME,
    LIST,
    OccupiedError,
    ResourceError,
    Result,
    ThoughtlensError,
    relist,
    require_sound,
    say,
    system_errors,
    warn,
    write_json,
)
from thoughtlens.ops.hub.card import card
from thoughtlens.ops.hub.contents import Contents, contents
from thoughtlens.ops.hub.manifest import FILE, Manifest, entry, read, verify
from thoughtlens.ops.hub.places import place_of, temporary
from thoughtlens.ops.hub.private import Cleaner
from thoughtlens.show import FOREIGN, explorer_of

SHOWN = 8


@system_errors("the copy that is pushed")
def push(
    path: str | Path,
    repo: str,
    *,
    acts: bool = False,
    private: bool = False,
    update: bool = False,
    license: str | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Publish an SAE, a folder of SAEs, a sweep, a grid, or a run with its explorer.

    Absolute paths of this machine are taken out of configs, results and pages.

    Args:
        path: What to push. A run that has been interpreted gets its explorer first, if it has none.
        repo: owner/name on the hub, or a directory (beginning with / ./ ../ ~).
        acts: Also push the activations.
        private: For the hub: only you can see a new repository.
        update: Replace an earlier push; the hub keeps its history.
        license: As the hub names it, for the card.
        revision: Branch on the hub.

    Returns:
        Where it went, kind, number of files and bytes, what was rewritten, and what a run does not have.

    Raises:
        NotThereError: nothing to push there, or unfinished.
        OccupiedError: `repo` holds something.
        StoreError: a file is not what its stage wrote.
        DataError: links or names that cannot be published.
        ResourceError: the hub refuses, or the disk is full.
    """
    place = place_of(repo, revision)
    place.check(update)
    found = _with_explorer(contents(path, acts=acts), acts)
    require_sound(found.root / name for name in found.files)
    with place.staging() as staged:
        cleaner = Cleaner(found.root)
        rewritten = [name for name in found.files if _stage(found.root, name, staged, cleaner)]
        rewritten = sorted({*rewritten, *_relisted(found, staged)})
        manifest = Manifest(
            kind=found.kind,
            name=found.root.name,
            thoughtlens=__version__,
            files={name: entry(staged / name) for name in found.files},
            rewritten=tuple(rewritten),
            missing=tuple(found.missing),
        )
        text = card(found, repo, manifest, staged, license)
        (staged / "README.md").write_text(text, "utf-8")
        write_json(staged / FILE, manifest.model_dump(mode="json"))
        _say_changes(cleaner, rewritten, found)
        where = place.put(staged, private, update)
    size = sum(e.bytes for e in manifest.files.values())
    return Result(
        pushed=where,
        kind=found.kind,
        n_files=len(found.files),
        bytes=size,
        rewritten=rewritten,
        missing=found.missing,
    )


@system_errors("the copy that is pulled")
def pull(repo: str, path: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """Bring what was pushed into the new directory `path`, each file compared with its digest.

    Args:
        repo: owner/name on the hub, or a directory that was pushed to.
        path: The directory to make.
        revision: Branch, tag or commit on the hub.

    Returns:
        Where it lies, kind, number of files and bytes, and the commit.

    Raises:
        OccupiedError: something is at `path`.
        NotThereError: nothing of ours at `repo`; or a file of its list is missing, which is named.
        StoreError: a file that differs from the list, or a list that is damaged.
        DataError: names or links that lead out of the directory.
        ResourceError: the hub cannot be reached, or the disk is too small.
    """
    out, place = Path(path), place_of(repo, revision)
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise OccupiedError(
            f"Expected nothing at {out} to pull into, found something; choose another directory"
        )
    manifest = read(place.manifest())
    size = sum(e.bytes for e in manifest.files.values())
    out.parent.mkdir(parents=True, exist_ok=True)
    if size > (free := shutil.disk_usage(out.parent).free):
        raise ResourceError(f"{repo} has {size:,} bytes, and {free:,} are free at {out.parent}")
    with temporary(out) as tmp:
        place.get(manifest, tmp)
        verify(manifest, tmp)
        for page in tmp.glob("*/index.html"):
            (page.parent / FOREIGN).touch()  # its scripts are somebody else's
        os.rename(tmp, out)
    if manifest.missing:
        say(f"pull: this run was pushed without {', '.join(manifest.missing)}")
    commit = getattr(place, "revision", None)
    return Result(pulled=str(out), kind=manifest.kind, n_files=len(manifest.files), bytes=size, commit=commit)


def _with_explorer(found: Contents, acts: bool) -> Contents:
    """A run that has been interpreted, with its explorer."""
    if found.kind != "run" or not any(m.startswith("explorer") for m in found.missing):
        return found
    try:
        BY_NAME["explorer"].run(explorer_of(found.root), found.root / "explorer")
    except ThoughtlensError as error:
        say(f"push: without an explorer ({error})")
        return found
    return contents(found.root, acts=acts)


def _stage(root: Path, name: str, staged: Path, cleaner: Cleaner) -> bool:
    """Put a file where it is pushed from; whether something private was taken out of it."""
    target = staged / name
    target.parent.mkdir(parents=True, exist_ok=True)
    cleaned = cleaner.clean(root / name)
    if cleaned is None:
        shutil.copyfile(root / name, target)
    else:
        target.write_bytes(cleaned)
    return cleaned is not None


def _relisted(found: Contents, staged: Path) -> list[str]:
    """Lists of files, written anew where what they list was rewritten or left out."""
    changed = []
    for name in found.files:
        if Path(name).name == LIST:
            relist((staged / name).parent)
            if (staged / name).read_bytes() != (found.root / name).read_bytes():
                changed.append(name)
    return changed


def _say_changes(cleaner: Cleaner, rewritten: list[str], found: Contents) -> None:
    for old, new in list(cleaner.changes.items())[:SHOWN]:
        say(f"push: {old[:120]!r} is written as {new[:120]!r}")
    if rewritten:
        warn(
            f"paths of this machine were taken out of {len(rewritten)} files; who runs these configs must "
            f"give again what they name"
        )
    if found.missing:
        say(f"push: a run without {', '.join(found.missing)}")
