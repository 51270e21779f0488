"""This project's own SAEs on disk: `cfg.json` + `sae.safetensors`, read strictly (docs/formats.md)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from thoughtlens.core import (
    CheckpointError,
    Config,
    ConfigError,
    Json,
    NotThereError,
    Record,
    StoreError,
    require_sound,
    seal,
    validate_config,
    write_json,
)
from thoughtlens.sae.formats.files import read_safetensors, write_tensors
from thoughtlens.sae.formats.settings import read_table
from thoughtlens.sae.kinds.base import SAE, SAEConfig
from thoughtlens.sae.kinds.config import CONFIGS
from thoughtlens.sae.kinds.registry import KINDS

FORMAT = "thoughtlens-sae"
SCHEMA = 1
MAX_WIDTH = 2**30
FILES = ("cfg.json", "sae.safetensors")


@dataclass(frozen=True, kw_only=True)
class Known(Record):
    """What stages read of a provenance; the rest of it may be anything."""

    model: str | None = None
    model_revision: str | None = None
    model_digest: str | None = None
    acts_digest: str | None = None
    reading: Json | None = None
    thoughts: list[int] | None = None
    split: str | None = None
    drop_outliers: bool | None = None
    rows_seen: int | None = None


def require_provenance(table: Json, where: object) -> Json:
    """A provenance as it stands, if what is read of it has the right types.

    Raises:
        CheckpointError: it has not.
    """
    try:
        Known.from_json(table)
    except StoreError as error:
        raise CheckpointError(f"{where}: provenance: {error}") from None
    return table


class Header(Config):
    """What `cfg.json` says beside `format` and `schema`."""

    kind: str
    """Architecture."""
    config: Json
    """The architecture's settings."""
    d_in: int = Field(ge=1, le=MAX_WIDTH)
    """Width of the input."""
    d_out: int = Field(ge=1, le=MAX_WIDTH)
    """Width of the output."""
    d_sae: int = Field(ge=1, le=MAX_WIDTH)
    """Number of latents."""
    hook_names: list[str]
    """Hooks the SAE was trained on."""
    cells: list[tuple[str, int | None]] | None
    """The (hook_name, thought_idx) of each row of the normalisation table; null: no table."""
    provenance: Json
    """Where the training rows came from."""

    @property
    def settings(self) -> SAEConfig:
        """The architecture's settings, checked."""
        return validate_config(CONFIGS[self.kind], self.config)


def save(sae: SAE, directory: str | Path) -> None:
    """Write an SAE that takes raw activations; a global normalisation is folded in the copy on disk.

    The weights come first and `cfg.json` last, each through a temporary name: a directory with a
    `cfg.json` is whole. The list of both with their digests follows.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    folded = copy.deepcopy(sae)
    folded.fold()
    tensors = folded.state_dict()
    bad = [name for name, t in tensors.items() if not torch.isfinite(t).all()]
    if bad:
        raise CheckpointError(f"Refusing to save an SAE to {directory}: {', '.join(bad)} hold NaN or Inf")
    write_tensors(tensors, directory / "sae.safetensors")
    write_header(folded, directory)


def write_header(sae: SAE, directory: Path) -> None:
    """The `cfg.json` of an SAE that takes raw activations; its weights lie there already."""
    write_json(directory / "cfg.json", _header(sae))
    seal(directory, [directory / name for name in FILES])


def load_native(path: str | Path, device: str = "cpu") -> SAE:
    """The SAE in a directory.

    Raises:
        NotThereError: no SAE there.
        CheckpointError: unknown schema or kind, keys missing or left over, wrong shapes, NaN weights,
            a truncated or foreign file.
    """
    sae, tensors = read_native(Path(path))
    sae.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return sae.to(device).eval()


def read_native(directory: Path) -> tuple[SAE, dict[str, Tensor]]:
    """The SAE in a directory without memory of its own, and its tensors as the file maps them.

    Where they lie in the file decides how well a processor reads them: compute with a copy.
    """
    header = read_header(directory)
    require_sound(file for file in directory.glob("*") if file.name in FILES)
    sae = _empty(header, directory / "cfg.json")
    tensors = _read_tensors(directory / "sae.safetensors")
    _check(tensors, sae.state_dict(), directory / "sae.safetensors")
    sae.hook_names, sae.provenance = header.hook_names, require_provenance(header.provenance, directory)
    return sae, tensors


def _header(sae: SAE) -> Json:
    header = Header(
        kind=sae.kind,
        config=sae.cfg.model_dump(mode="json"),
        d_in=sae.d_in,
        d_out=sae.d_out,
        d_sae=sae.d_sae,
        hook_names=sae.hook_names,
        cells=None if sae.normalization is None else sae.normalization.cells,
        provenance=sae.provenance,
    )
    return {"format": FORMAT, "schema": SCHEMA, **header.model_dump(mode="json")}


def read_header(directory: Path) -> Header:
    """What the `cfg.json` of a directory says.

    Raises:
        NotThereError: there is none.
        CheckpointError: of another project or schema, damaged, or an unknown kind.
    """
    file = directory / "cfg.json"
    if not file.is_file():
        raise NotThereError(f"Expected an SAE at {directory}, found no {file.name} there")
    table = read_table(file)
    if table.pop("format", None) != FORMAT:
        raise CheckpointError(f"{file} is not a thoughtlens SAE: expected format {FORMAT!r} in it")
    if (schema := table.pop("schema", None)) != SCHEMA:
        raise CheckpointError(
            f"{file} has schema {schema!r}, this version reads {SCHEMA}; use the version that wrote it"
        )
    try:
        header = validate_config(Header, table)
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from None
    if header.kind not in KINDS:
        raise CheckpointError(f"{file}: expected a kind among {', '.join(KINDS)}, got {header.kind!r}")
    return header


def _empty(header: Header, file: Path) -> SAE:
    """Of the header's shape, without memory: a header may claim anything."""
    try:
        cfg = header.settings
        if (width := cfg.width(header.d_in)) != header.d_sae:
            raise CheckpointError(f"{file}: d_sae is {header.d_sae}, its config gives {width}")
        with torch.device("meta"):
            sae = KINDS[header.kind](cfg, header.d_in, header.d_out)
            if header.cells is not None:
                sae.set_cells(header.cells)
    except CheckpointError:
        raise
    except (ValueError, OverflowError) as error:  # ConfigError, or a width that is no number
        raise CheckpointError(f"{file}: {error}") from None
    return sae


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise NotThereError(f"Expected weights at {file}, found none")
    return read_safetensors(file)


def _check(tensors: dict[str, Tensor], expected: dict[str, Tensor], file: Path) -> None:
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(f"{file}: keys missing: {missing}, keys not known: {extra}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{file}: expected {name} of shape {tuple(expected[name].shape)}, got {tuple(tensor.shape)}"
            )
        if not tensor.dtype.is_floating_point or tensor.dtype != tensors["W_enc"].dtype:
            raise CheckpointError(f"{file}: expected {name} in W_enc's floating dtype, got {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{file}: {name} holds NaN or Inf; train again or take an earlier SAE")
