"""Files of weights, of unknown origin: sizes are compared before anything is read, nothing is executed."""

from __future__ import annotations

import os
import pickle
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from thoughtlens.core import ITEM_BYTES, CheckpointError, NotThereError, StoreError, read_head, whole

MAX_PICKLE_BYTES = 16 * 2**20
"""Of the part of a `.pt` file that is not tensor data."""
SMALL_BYTES = 64 * 2**20
MAX_RATIO = 20
"""How far a zip file above SMALL_BYTES may unfold: floats hardly compress, bombs do by a thousand."""

BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
    struct.error,
    tokenize.TokenError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What the decoders below raise on damaged bytes; a pickle's opcodes can raise nearly anything."""


@contextmanager
def _decoding(file: Path, what: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except BROKEN as error:
        text = " ".join(str(error).partition(" In PyTorch 2.6")[0].split())[:160]
        raise CheckpointError(f"{file} is {what} ({type(error).__name__}: {text})") from None


def require(file: Path) -> None:
    """Raise NotThereError unless the file exists."""
    if not file.is_file():
        raise NotThereError(f"Expected a file at {file}, found none")


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, mapped into memory rather than read.

    Raises:
        NotThereError: no such file.
        CheckpointError: damaged, truncated, a header larger than the file, or a dtype that torch lacks.
    """
    try:
        entries = read_head(file)
    except StoreError as error:
        raise CheckpointError(str(error)) from None
    with _decoding(file, "truncated or not a safetensors file"):
        for name, entry in entries.items():
            if entry.dtype not in ITEM_BYTES:
                raise CheckpointError(
                    f"{file}: {name} has dtype {entry.dtype!r}, expected {', '.join(ITEM_BYTES)}"
                )
        return load_file(file)


def read_npz(file: Path) -> dict[str, Tensor]:
    """All arrays of an `.npz` file as tensors; only plain numbers, never pickled objects.

    Raises:
        NotThereError: no such file.
        CheckpointError: damaged, truncated, object arrays, or a size that unfolds beyond reason.
    """
    require(file)
    with _decoding(file, "damaged or not an .npz file"), zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _require_reasonable(file, entries)
        found: dict[str, Tensor] = {}
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename or name in found:
                raise CheckpointError(f"{file}: expected each array once as NAME.npy, got {entry.filename!r}")
            with archive.open(entry) as handle:
                found[name] = _read_array(file, name, handle, entry.file_size)
        return found


def read_pt(file: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tensors and the plain values of a dictionary saved by `torch.save`.

    Read with weights-only loading and mapped into memory.

    Raises:
        NotThereError: no such file.
        CheckpointError: damaged, of the format before torch 1.6, with anything but tensors and plain
            values in it (which is then never executed), or not a dictionary.
    """
    require(file)
    with _decoding(file, "damaged, or not a file of torch.save with nothing but tensors and plain values"):
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _require_reasonable(file, entries)
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(
                        f"{file}: {entry.filename} is compressed, torch.save never does that"
                    )
                if entry.filename.endswith(".pkl") and entry.file_size > MAX_PICKLE_BYTES:
                    raise CheckpointError(
                        f"{file}: {entry.filename} has {entry.file_size:,} bytes, it is not ours"
                    )
        with warnings.catch_warnings(action="ignore"):  # about odd pickle protocols, which damaged files have
            table = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise CheckpointError(
            f"{file}: expected a state dict (names and tensors), got a {type(table).__name__}"
        )
    tensors = {name: value for name, value in table.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        _require_plain(file, name, tensor)
    return tensors, {name: value for name, value in table.items() if name not in tensors}


def write_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """A safetensors file that is whole or absent.

    Raises:
        OSError: with the system's number (disk full, no permission), which safetensors hides.
    """
    try:
        with whole(file) as part:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, part)
    except SafetensorError as error:
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(file)) from None


def require_unscaled(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The same without a `scaling_factor` of 1.

    Raises:
        CheckpointError: another one, which changes what the SAE computes.
    """
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not bool((factor == 1).all()):
        raise CheckpointError(
            f"{file}: has a scaling_factor other than 1, which changes its output; fold it first"
        )
    return tensors


def alone(tensor: Tensor) -> Tensor:
    """Without what else its storage holds, which torch.save would write along."""
    whole_storage = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole_storage else tensor.clone()


def _require_reasonable(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    size, total = file.stat().st_size, sum(entry.file_size for entry in entries)
    if total > SMALL_BYTES and total > MAX_RATIO * size:
        raise CheckpointError(f"{file}: {size:,} bytes would unfold to {total:,}; it is no file of weights")
    for entry in entries:
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CheckpointError(f"{file}: {entry.filename} is encrypted or compressed in an unknown way")


def _require_plain(file: Path, name: str, value: Tensor) -> None:
    """Refuse what is not a dense tensor with its own data: views that repeat one number a billion times."""
    if (
        type(value) not in (Tensor, nn.Parameter)
        or value.layout != torch.strided
        or value.device.type != "cpu"
    ):
        raise CheckpointError(
            f"{file}: expected {name} as a dense tensor, got {value.layout} on {value.device}"
        )
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CheckpointError(
            f"{file}: {name} of shape {tuple(value.shape)} has fewer numbers than its shape"
        )


def _read_array(file: Path, name: str, handle: Any, size: int) -> Tensor:
    version = np.lib.format.read_magic(handle)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise CheckpointError(f"{file}: {name} has .npy version {version}, expected 1.0 or 2.0")
    shape, fortran, dtype = readers[version](handle)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise CheckpointError(f"{file}: expected numbers in {name}, got dtype {dtype}")
    n_bytes = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    if min(shape, default=0) < 0 or n_bytes != size - handle.tell():
        raise CheckpointError(
            f"{file}: {name} of shape {shape} and dtype {dtype} does not fill its {size:,} bytes"
        )
    flat = np.empty(n_bytes, np.uint8)
    _fill(handle, flat.data)
    array = flat.view(dtype).reshape(shape[::-1] if fortran else shape)
    array = array.astype(dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(array.T.copy() if fortran else array)


def _fill(handle: Any, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        got = handle.readinto(buffer[done : done + 2**22])
        if not got:
            raise EOFError(f"{len(buffer) - done} bytes are missing")
        done += got
    handle.read(1)  # at its end the archive compares its checksum
