"""SAEs that others have published: names of releases, where they lie, and what is known of their training.

`catalogue.json` has them with their sources. Names are SAELens's where it has them: `release/id`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from thoughtlens.core import ConfigError, Json, Record, read_json
from thoughtlens.models import BUNDLED
from thoughtlens.sae.formats.says import SAME_MODELS, Says
from thoughtlens.sae.formats.sites import short

FILE = Path(__file__).with_name("catalogue.json")
ANY = "{id}"
NUMBER = r"([0-9]+[km]?)"
"""What `{0}`, `{1}` stand for in a template: a block, a width such as 16k, a trainer."""
OWNERS = {
    "pythia": "EleutherAI",
    "gpt-neo": "EleutherAI",
    "gpt-j": "EleutherAI",
    "gemma": "google",
    "llama": "meta-llama",
    "meta-llama": "meta-llama",
    "qwen": "Qwen",
    "mistral": "mistralai",
    "smollm": "HuggingFaceTB",
    "tinystories": "roneneldan",
    "opt": "facebook",
}
"""Whose models begin with a word, which TransformerLens's names leave out."""
USUAL_L0 = 100
"""Of SAEs that differ in L0 alone the one nearest to this is meant, as by SAELens's `canonical`."""
WEIGHTS = ("*.safetensors", "params.npz", "ae.pt")
OWN_FILES = ("layer*.sae.pt", "*-SAE-l*.pt*")
"""Weights that are an SAE's place themselves."""


@dataclass(frozen=True, kw_only=True)
class Release(Record):
    """SAEs that were published together."""

    release: str
    repo: str
    """On the Hugging Face hub."""
    model: str
    """Its hub id."""
    format: str | None
    """How `convert` calls their layout; None: it is not read here."""
    sites: list[str]
    layers: str
    source: str
    """Where this is from: a key of the file's `sources`, or an address."""
    widths: list[str] = field(default_factory=list)
    n: int | None = None
    """How many there are."""
    bos: bool | None = None
    """Whether they were trained with a begin-of-sequence token, where their own files do not say it."""
    paths: list[tuple[str, str]] = field(default_factory=lambda: [(ANY, ANY)])
    """Templates of an id, and of its folder in the repository; `*`: see USUAL_L0."""
    processing: Json = field(default_factory=dict)
    """How TransformerLens had changed the model's weights."""
    settings: Json = field(default_factory=dict)
    """What their `cfg.json` leaves out, or has wrong."""
    scales: dict[str, float] = field(default_factory=dict)
    """By folder, what activations were multiplied by in training, where no file of theirs says it."""
    why: str | None = None
    """Why they are not read here."""

    @property
    def says(self) -> Says:
        """What it says of the training of its SAEs."""
        return Says(model=self.model, prepend_bos=self.bos, processing=self.processing)


@dataclass(frozen=True, kw_only=True)
class Listed(Record):
    """A release, and what of it is on this machine."""

    release: str
    model: str
    format: str
    sites: str
    layers: str
    widths: str
    n: int | None
    cached: list[str]
    """Folders of its SAEs in the hub's cache."""
    repo: str
    source: str


class Known(NamedTuple):
    """An SAE by the name of its release."""

    release: Release
    folder: str
    """In the repository; may end in `*`."""

    @property
    def place(self) -> str:
        """`owner/name:folder`, with the folder that is meant.

        Raises:
            ConfigError: a `*` that nothing fits, of what is on the hub, or without a network in its cache.
        """
        return f"{self.release.repo}:{_nearest(self.release.repo, self.folder)}"

    @property
    def scale(self) -> float | None:
        """What activations were multiplied by, where no file of its own says it."""
        return self.release.scales.get(self.folder)


@cache
def releases() -> dict[str, Release]:
    """All of them by name."""
    return {one["release"]: Release.from_json(one) for one in read_json(FILE)["releases"]}


def find(name: str) -> Known | None:
    """The SAE that `release/id` means; None where the name does not begin with a release's.

    Raises:
        ConfigError: a release alone, an id that it cannot have, or a release that is not read here.
    """
    head, _, tail = name.partition("/")
    if (release := releases().get(head)) is None:
        return None
    if release.format is None:
        raise ConfigError(f"{head} cannot be read here: {release.why} ({release.repo} on the hub)")
    folder = next((found for one in release.paths if (found := _folder(tail, *one))), None)
    if not tail.strip("/") or folder is None:
        ids = (
            ", ".join(theirs for theirs, _ in release.paths if theirs != ANY) or "a folder of its repository"
        )
        raise ConfigError(
            f"Expected {head}/ID, with {ids} as ID (layers {release.layers or 'as in its repository'}); "
            f"got {name}"
        )
    return Known(release, folder)


def of(path: Path) -> Known | None:
    """The SAE of a release at a path, by its folders' names: a repository's, or the hub's cache's."""
    parts = path.absolute().parts
    for release in releases().values():
        names = {release.repo.partition("/")[2], f"models--{release.repo.replace('/', '--')}"}
        at = next((i for i, part in enumerate(parts) if part in names), None)
        if at is not None:
            inside = parts[at + 1 :]
            return Known(release, "/".join(inside[2:] if inside[:1] == ("snapshots",) else inside))
    return None


def near(name: str) -> str:
    """What to say of a name that nothing was found by: releases of nearly this name."""
    close = difflib.get_close_matches(name.partition("/")[0], releases(), n=1, cutoff=0.75)
    return f"; did you mean the release {close[0]}?" if close else ""


def hub_model(name: str) -> str:
    """The hub id, or path, of a model by the name that an SAE's files have for it."""
    if "/" in name or name in BUNDLED or Path(name).exists():
        return name
    plain = SAME_MODELS.get(name.lower(), name)
    same = [one.model for one in releases().values() if short(one.model) == plain.lower()]
    owner = next((owner for word, owner in OWNERS.items() if plain.lower().startswith(word)), None)
    return same[0] if same else f"{owner}/{plain}" if owner else plain


def listed(word: str = "") -> list[Listed]:
    """Releases with this word in name, repository, model or format, those in the cache first."""
    found = [
        Listed(
            release=one.release,
            model=one.model,
            format=one.format or "not read",
            sites=", ".join(one.sites),
            layers=one.layers,
            widths=", ".join(one.widths),
            n=one.n,
            cached=cached(one.repo),
            repo=one.repo,
            source=one.source,
        )
        for one in releases().values()
        if word.lower() in " ".join((one.release, one.repo, one.model, one.format or "")).lower()
    ]
    return sorted(found, key=lambda one: (not one.cached, one.release))


def cached(repo: str) -> list[str]:
    """Folders with weights of a repository in the hub's cache."""
    try:
        root = Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return []
    found = {file.parent.relative_to(root) for kind in WEIGHTS for file in root.rglob(kind)}
    found = {folder.parent if folder.name == "checkpoints" else folder for folder in found}
    found |= {file.relative_to(root) for kind in OWN_FILES for file in root.rglob(kind)}
    return sorted(map(str, found))


def _folder(name: str, theirs: str, path: str) -> str | None:
    """What a template of paths makes of an id; None where it is not of this form."""
    pattern = re.sub(r"\\\{\d\\\}", lambda _: NUMBER, re.escape(theirs)).replace(re.escape(ANY), "(.+)")
    if (found := re.fullmatch(pattern, name.strip("/"))) is None or ".." in name.split("/"):
        return None
    if ANY in theirs:
        return path.replace(ANY, found[1])
    keys = re.findall(r"\{\d\}", theirs)
    return re.sub(r"\{\d\}", lambda key: found[1 + keys.index(key[0])], path)


def _nearest(repo: str, folder: str) -> str:
    if not folder.endswith("*"):
        return folder
    try:
        files = huggingface_hub.list_repo_files(repo)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        files = [f"{one}/weights" for one in cached(repo)]
    head = re.escape(folder[:-1])
    found = [m for file in files if (m := re.match(rf"({head}(\d+))/", file))]
    there = {(abs(int(m[2]) - USUAL_L0), -int(m[2]), m[1]) for m in found}
    if not there:
        raise ConfigError(
            f"Expected a folder {folder} of {repo}, found none on the hub or in its cache; name one: "
            f"{repo}:{folder[:-1]}NUMBER"
        )
    return min(there)[2]
