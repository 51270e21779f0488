"""An SAE by path or by hub id, in any format."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from thoughtlens.core import ConfigError, NotThereError
from thoughtlens.sae.formats import catalogue
from thoughtlens.sae.formats.io import load
from thoughtlens.sae.kinds.base import SAE

HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<folder>.+))?")
FILES = ("cfg.json", "config.json", "hyperparams.json", "*.safetensors", "params.npz", "*.pt", "*.pth")
"""Files of an SAE's folder that some format reads."""
BESIDE = ("config.json", "config.yaml")
"""Files of a whole repository that say how its SAEs were trained."""


def load_sae(source: str | Path, *, device: str = "cpu") -> SAE:
    """An SAE of any format that `thoughtlens convert` knows.

    Args:
        source: A path, `owner/name[@revision][:folder]` on the hub, or `release/id` as SAELens and
            `thoughtlens look --list` have them. Of a repository only the named folder is fetched, and what it
            says of all its SAEs; what is in the hub's cache needs no network.
        device: Where to put it.

    Raises:
        NotThereError: no SAE there, or a repository that cannot be had.
        MismatchError, CheckpointError: see `sae.load`.

    Example:
        ```python
        sae = tl.load_sae("runs/pilot/sae/pooled")
        print(type(sae).__name__, sae.d_in, sae.d_sae)
        ```
    """
    return load(local(source), device)


def local(source: str | Path) -> Path:
    """The directory or file on this machine; fetched where it is on the hub."""
    path = Path(source).expanduser()
    if path.exists() or str(source).startswith((".", "/", "~")):
        return path
    known = catalogue.find(str(source))
    found = HUB_ID.fullmatch(str(source) if known is None else known.place)
    if found is None:
        return path
    repo, revision, folder = found["repo"], found["revision"], (found["folder"] or "").strip("/")
    if ".." in Path(folder).parts:
        raise ConfigError(f"Expected a folder of {repo}, got {folder!r}")
    patterns = [folder, *BESIDE, *(f"{folder}/{name}" for name in FILES)] if folder else [*FILES, *BESIDE]
    try:
        root = Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotThereError(
            f"Expected a file or folder at {path}, or a repository {repo} on the hub; "
            f"found neither ({reason}){'' if known else catalogue.near(str(source))}"
        ) from None
    if not (root / folder).is_file() and not any(
        fnmatch.fnmatch(file.name, name) for file in _files(root / folder) for name in FILES
    ):
        raise NotThereError(
            f"{repo} holds no SAE in {folder or 'its top folder'}; name the SAE's folder: {repo}:FOLDER"
        )
    return root / folder


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
