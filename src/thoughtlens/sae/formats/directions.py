"""Files of directions: probes, differences of means, steering vectors, components, rows of a lens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from thoughtlens.core import DataError, NotThereError, whole

VECTORS, OFFSETS, ABOUT = "directions", "offset", "thoughtlens"
"""Tensors of a file of ours, and the key of its metadata."""
BIASES = {"bias": "weight", "intercept_": "coef_"}
"""What torch and sklearn call a probe's bias, and its rows."""
SHORTEST, LONGEST = 1e-30, 1e30
"""Between which a vector's largest entry lies, so that its square is a number of float32, too."""


@dataclass(frozen=True, eq=False)
class Directions:
    """Vectors with names, and what a file says of where they are from."""

    vectors: Float64[np.ndarray, "n width"]
    names: tuple[str, ...]
    offset: Float64[np.ndarray, " n"] | None = None
    """Projection on the unit vector that counts as 0, of each; None: the file says none."""
    hook_name: str | None = None
    thoughts: tuple[int, ...] | None = None
    source: str = ""
    """What they are, in words."""

    @property
    def units(self) -> Float64[np.ndarray, "n width"]:
        """The same vectors at length 1."""
        return self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True)

    def named(self, names: Sequence[str] | None, where: object) -> Directions:
        """With other names; as they are where none are given.

        Raises:
            DataError: not one for each, or one twice.
        """
        own = self.names if names is None else tuple(names)
        if len(own) != len(self.vectors):
            raise DataError(
                f"{where} holds {len(self.vectors)} directions; the names that were given are {len(own)}: "
                f"{', '.join(own)}"
            )
        if twice := [name for i, name in enumerate(own) if name in own[:i]]:
            raise DataError(f"{where}: expected a name for each direction, got {twice[0]!r} twice")
        if not all(own):
            raise DataError(f"{where}: expected a name for each direction, got an empty one")
        return replace(self, names=own)


def read_directions(file: str | Path, names: Sequence[str] | None = None) -> Directions:
    """The directions of a `.npy` array, or of a `.safetensors` file of ours or of anybody's.

    Of a safetensors file of others every tensor is a direction with its name, or several, as rows.

    Raises:
        NotThereError: no such file.
        DataError: not such a file; NaN, zeros, or vectors of several widths; names that do not fit.
    """
    file = Path(file)
    if not file.is_file():
        what = "a folder" if file.is_dir() else "none"
        raise NotThereError(f"directions: expected a .npy or .safetensors file at {file}, found {what}")
    if file.suffix not in (".npy", ".safetensors"):
        raise DataError(
            f"directions: {file} is no .npy or .safetensors file; save its vectors as one, such as "
            f"numpy.save('directions.npy', vectors)"
        )
    try:
        found = _of_numpy(file) if file.suffix == ".npy" else _of_safetensors(file)
    except (ValueError, TypeError, SafetensorError, OSError, EOFError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{file} is not a file of directions, one array of rows: {reason}") from None
    found = found.named(names, file)
    for name, vector in zip(found.names, found.vectors, strict=True):
        if not np.isfinite(vector).all():
            raise DataError(f"{file}: direction {name!r} holds NaN or Inf")
        if not vector.any():
            raise DataError(f"{file}: direction {name!r} is all zeros, which point nowhere")
        if not SHORTEST < (largest := float(np.abs(vector).max())) < LONGEST:
            raise DataError(
                f"{file}: direction {name!r} is too {'long' if largest > 1 else 'short'} to be measured, its "
                f"largest entry is {largest:.3g}; save it at length 1"
            )
    if found.offset is not None and (
        len(found.offset) != len(found.names) or not np.isfinite(found.offset).all()
    ):
        raise DataError(f"{file}: expected one finite offset for each of {len(found.names)} directions")
    return found


def write_directions(found: Directions, file: Path) -> None:
    """A file that `read_directions` takes, whole or absent."""
    about = {
        "names": found.names,
        "hook_name": found.hook_name,
        "thoughts": found.thoughts,
        "source": found.source,
    }
    tensors = {VECTORS: np.ascontiguousarray(found.vectors, np.float32)}
    tensors |= {} if found.offset is None else {OFFSETS: np.ascontiguousarray(found.offset, np.float64)}
    with whole(file) as part:
        save_file(tensors, part, {ABOUT: json.dumps(about, ensure_ascii=False)})


def _rows(array: np.ndarray, where: object) -> Float64[np.ndarray, "n width"]:
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or not array.size:
        raise ValueError(f"{where} has the shape {array.shape} and the type {array.dtype}")
    return np.atleast_2d(array).astype(np.float64)


def _of_numpy(file: Path) -> Directions:
    with file.open("rb") as start:
        if start.read(6) != b"\x93NUMPY":
            raise ValueError("it is no array that numpy.save wrote")
    rows = _rows(np.load(file, allow_pickle=False), "the array")
    return Directions(rows, _numbered("direction", len(rows)), source=f"rows of {file.name}")


def _numbered(name: str, n: int) -> tuple[str, ...]:
    return tuple(f"{name}_{i}" for i in range(n))


def _of_safetensors(file: Path) -> Directions:
    with safe_open(file, "pt") as reader:  # which knows bfloat16, as numpy does not
        tables = {name: reader.get_tensor(name).double().numpy() for name in reader.offset_keys()}
        about = json.loads((reader.metadata() or {}).get(ABOUT, "{}"))
    if VECTORS in tables and about:
        rows = _rows(tables[VECTORS], VECTORS)
        thoughts = about.get("thoughts")
        return Directions(
            rows, tuple(map(str, about["names"])), tables.get(OFFSETS), about.get("hook_name"),
            None if thoughts is None else tuple(map(int, thoughts)), str(about.get("source") or ""),
        )  # fmt: skip
    biases = {name: tables.pop(name) for name in list(tables) if _probe_of(name) in tables}
    parts = {name: _rows(table, name) for name, table in tables.items()}
    if len({part.shape[1] for part in parts.values()}) != 1:
        raise ValueError(f"its tensors have the widths {', '.join(str(p.shape[1]) for p in parts.values())}")
    alone = len(parts) == 1
    names = [
        own
        for name, part in parts.items()
        for own in (
            (name,) if len(part) == 1 and not alone else _numbered("direction" if alone else name, len(part))
        )
    ]
    rows = np.concatenate(list(parts.values()))
    return Directions(rows, tuple(names), _zeros(parts, biases), source=f"tensors of {file.name}")


def _probe_of(name: str) -> str | None:
    """The tensor whose bias one of this name is; None: it is called like no bias."""
    *where, last = name.split(".")
    return ".".join([*where, BIASES[last]]) if last in BIASES else None


def _zeros(parts: dict[str, np.ndarray], biases: dict[str, np.ndarray]) -> Float64[np.ndarray, " n"] | None:
    """Where probes w . x + b are 0, as a length along w; None where not each of them has a bias.

    Raises:
        ValueError: a bias that is not one number for each row.
    """
    own = {_probe_of(name): bias for name, bias in biases.items()}
    for name, bias in own.items():
        if bias.size != len(parts[str(name)]):
            raise ValueError(f"{name} has {len(parts[str(name)])} rows, and its bias {bias.size} numbers")
    if own.keys() != parts.keys():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # what is all zeros is refused by its name
        return np.concatenate(
            [-own[n].reshape(-1) / np.linalg.norm(rows, axis=1) for n, rows in parts.items()]
        )
