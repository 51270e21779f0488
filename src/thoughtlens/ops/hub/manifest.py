"""The list of files that travels with them: what is pulled is exactly this, byte by byte."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from thoughtlens.core import Config, ConfigError, DataError, StoreError, read_json, sha256, validate_config
from thoughtlens.ops.hub.contents import KINDS, check_name

FILE = "thoughtlens-hub.json"
SCHEMA = 1
MAX_BYTES = 16 * 2**20


class Entry(Config):
    """One file."""

    bytes: int = Field(ge=0)
    """Its size."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Its digest."""


class Manifest(Config):
    """What was pushed."""

    format: str = "thoughtlens-hub"
    """Tells the file from others."""
    schema_version: int = SCHEMA
    """Raised on every change."""
    kind: str
    """sae, stack, sweep, grid or run."""
    name: str
    """Name of the directory."""
    thoughtlens: str
    """Version that pushed."""
    files: dict[str, Entry]
    """By name; the card (README.md) is not among them: people edit it."""
    rewritten: tuple[str, ...] = ()
    """Files from which paths of the machine were taken; their stages' digests are those from before."""
    missing: tuple[str, ...] = ()
    """Stages of a run that were not there."""

    @field_validator("files")
    @classmethod
    def _plain_names(cls, files: dict[str, Entry]) -> dict[str, Entry]:
        for name in files:
            check_name(name)
        lower = [name.lower() for name in files]
        if len(set(lower)) < len(lower):
            raise ValueError("files have names that differ in upper and lower case alone")
        if folders := {str(parent) for name in files for parent in Path(name).parents} & set(files):
            raise ValueError(f"{sorted(folders)[0]} is a file and a folder")
        return files


def read(file: Path) -> Manifest:
    """The manifest in a file of unknown origin.

    Raises:
        StoreError: damaged, foreign, of another schema, or with names that leave the directory.
    """
    table = read_json(file, max_bytes=MAX_BYTES)
    if table.get("format") != "thoughtlens-hub" or table.get("schema_version") != SCHEMA:
        raise StoreError(
            f"{file.name} has format {table.get('format')!r}, schema {table.get('schema_version')!r}; this "
            f"version reads 'thoughtlens-hub', {SCHEMA}"
        )
    try:
        manifest = validate_config(Manifest, table)
    except (ConfigError, DataError) as error:
        raise StoreError(f"{file.name}: {error}") from None
    if manifest.kind not in KINDS:
        raise StoreError(f"{file.name}: expected a kind among {', '.join(KINDS)}, got {manifest.kind!r}")
    return manifest


def entry(file: Path) -> Entry:
    """Size and digest of a file."""
    return Entry(bytes=file.stat().st_size, sha256=sha256(file))


def verify(manifest: Manifest, root: Path) -> None:
    """Compare every file under `root` with the manifest.

    Raises:
        StoreError: names the first file that is missing, a link, or of other bytes.
    """
    for name, expected in manifest.files.items():
        file = root / name
        if file.is_symlink() or not file.is_file():
            raise StoreError(f"{name} is in {FILE} and not in what was pulled; push it again")
        if entry(file) != expected:
            raise StoreError(
                f"{name} has not the size and digest that {FILE} gives: damaged on the way, or changed "
                f"since. Pull again, or push it again"
            )
