"""Sparse codes on disk: where every latent of an SAE fires, by vector (CSR) and by latent (CSC).

A *vector* is one row of the store at one hook. Vectors are numbered problem by problem, each problem's rows
in the order of the store, and all hooks of a row one after the other: vector `v` is hook `v % n_hooks` of
place `v // n_hooks`. The bytes are described in docs/formats.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open

from thoughtlens.core import (
    BY_NAME,
    DataError,
    NotThereError,
    Record,
    StoreError,
    head,
    read_json,
    require_sound,
    whole,
)

SCHEMA = 1
DTYPES = {"I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "F32": np.dtype("<f4")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PLACES = {"row": "I64", "problem": "I32"}
ORDER = {"indptr": "I64", "indices": "I32", "values": "F32"}
"""Tensors of an order of the codes, by their type."""
GROUP_FIRES = 1 << 20
"""Fires in a row group of the Parquet form, and those that are checked at a time."""


@dataclass(frozen=True, kw_only=True)
class CodesMeta(Record):
    """`meta.json` beside the codes of a member."""

    schema: int = SCHEMA
    member: str
    hook_names: list[str]
    d_sae: int
    n_vectors: int
    n_fires: int


class Compressed(NamedTuple):
    """One order of the codes: line `i` has `indices[indptr[i]:indptr[i + 1]]`, and the values there."""

    indptr: Int[np.ndarray, " lines_plus_1"]
    indices: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]

    def line(self, i: int, what: str) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Indices and values of one line."""
        if not 0 <= i < len(self.indptr) - 1:
            raise DataError(f"Expected a {what} from 0 to {len(self.indptr) - 2}, got {i}")
        own = slice(int(self.indptr[i]), int(self.indptr[i + 1]))
        return self.indices[own], self.values[own]


class Codes:
    """The codes of one member, read through memory maps: nothing is loaded before it is asked for.

    Attributes:
        member: The member's name in the tables of `interpret/`.
        hook_names: The hooks of a place, in the order of its vectors.
        d_sae, n_vectors, n_fires: Latents, vectors, and stored activations (all other than 0).
        store_row: Row of the store of every place, int64.
        problem: Line in the store's problems of every place, int32; ascending.
    """

    def __init__(self, root: Path, meta: CodesMeta) -> None:
        self.root, self.member, self.hook_names = root, meta.member, meta.hook_names
        self.d_sae, self.n_vectors, self.n_fires = meta.d_sae, meta.n_vectors, meta.n_fires
        if not self.hook_names or not 0 < self.d_sae < 2**31:
            raise StoreError(
                f"{root}/meta.json says {len(self.hook_names)} hooks and {self.d_sae} latents; {_again(root)}"
            )
        places = tensors(root / "places.safetensors", PLACES)
        self.store_row, self.problem = places["row"], places["problem"]
        n_places, rest = divmod(self.n_vectors, len(self.hook_names) or 1)
        if rest or [len(self.store_row), len(self.problem)] != [n_places, n_places]:
            raise self._damaged(
                "places", f"has {len(self.store_row):,} places, its meta.json says {n_places:,}"
            )
        if n_places and (min(self.problem[0], self.store_row.min()) < 0 or (np.diff(self.problem) < 0).any()):
            raise self._damaged("places", "has problems that do not ascend, or rows below 0")

    @cached_property
    def by_vector(self) -> Compressed:
        """Latents by vector, checked when first asked for."""
        return self._order("csr", self.n_vectors, self.d_sae)

    @cached_property
    def by_latent(self) -> Compressed:
        """Vectors by latent, checked when first asked for."""
        return self._order("csc", self.d_sae, self.n_vectors)

    def _order(self, name: str, n_lines: int, n_columns: int) -> Compressed:
        """One order, of which nothing points outside: compiled code reads where the indices say."""
        found = Compressed(**tensors(self.root / f"{name}.safetensors", ORDER))
        sizes = [len(part) for part in found]
        if sizes != [n_lines + 1, self.n_fires, self.n_fires]:
            raise self._damaged(
                name,
                f"has lengths {sizes}, its meta.json says {n_lines:,} and {self.n_fires:,} fires: they are "
                f"of different runs",
            )
        indptr = found.indptr
        if (indptr[0], indptr[-1]) != (0, self.n_fires) or (np.diff(indptr) < 0).any():
            raise self._damaged(name, "has lines that do not follow one another")
        for low in range(0, self.n_fires, GROUP_FIRES):
            here = slice(low, low + GROUP_FIRES)
            index = found.indices[max(low - 1, 0) : here.stop]
            falls = 1 + max(low - 1, 0) + np.flatnonzero(np.diff(index) <= 0)
            if index.min() < 0 or index.max() >= n_columns:
                raise self._damaged(name, f"has indices outside 0 to {n_columns - 1}")
            if (indptr[np.searchsorted(indptr, falls)] != falls).any():
                raise self._damaged(name, "has lines whose indices do not ascend")
            if not np.isfinite(found.values[here]).all():
                raise self._damaged(name, "has activations that are not finite")
        return found

    def _damaged(self, name: str, what: str) -> StoreError:
        return StoreError(f"{self.root}/{name}.safetensors {what}; {_again(self.root)}")

    @classmethod
    def open(cls, root: str | Path) -> Codes:
        """The codes in a directory `interpret/codes/<i>`.

        Raises:
            NotThereError: there are none; the message says what makes them.
            StoreError: damaged, or of a schema that is not known here.
        """
        root = Path(root)
        if not (root / "meta.json").is_file():
            raise NotThereError(
                f"Expected the codes of an SAE in {root}, found no meta.json there; "
                f"{_again(root)} interpret.codes=true"
            )
        meta = read_json(root / "meta.json")
        require_sound([root / "meta.json"])
        if meta.get("schema") != SCHEMA:
            raise StoreError(f"Expected codes of schema {SCHEMA} in {root}, got {meta.get('schema')!r}")
        return cls(root, CodesMeta.from_json(meta))

    @property
    def density(self) -> Float[np.ndarray, " d_sae"]:
        """Share of vectors on which each latent fires."""
        return np.diff(self.by_latent.indptr) / max(self.n_vectors, 1)

    def latent(self, j: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Vectors on which latent `j` fires, ascending, and its activation there."""
        return self.by_latent.line(j, "latent")

    def row(self, v: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Latents that fire on vector `v` (a row of the CSR), ascending, and their activations."""
        return self.by_vector.line(v, "vector")

    def csr(self) -> sp.csr_array:
        """The codes as `[n_vectors, d_sae]`, rows by vector; index pointers are copied, the rest is mapped.

        Codes of 2^31 fires or more are copied: scipy needs one width for all its indices.
        """
        t = self.by_vector
        return sp.csr_array((t.values, t.indices, t.indptr), shape=(self.n_vectors, self.d_sae))

    def csc(self) -> sp.csc_array:
        """The codes as `[n_vectors, d_sae]`, columns by latent; mapped as `csr`."""
        t = self.by_latent
        return sp.csc_array((t.values, t.indices, t.indptr), shape=(self.n_vectors, self.d_sae))

    def rows_of(self, vectors: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Row of the store of each vector."""
        return self.store_row[vectors // len(self.hook_names)]

    def hooks_of(self, vectors: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Index in `hook_names` of each vector."""
        return vectors % len(self.hook_names)

    def problems_of(self, vectors: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Line in the store's problems of each vector."""
        return self.problem[vectors // len(self.hook_names)]

    def vectors_of(self, rows: Int[np.ndarray, " n"], hook_name: str) -> Int[np.ndarray, " n"]:
        """Vector of each of these rows of the store at a hook; -1 for a row that was not read."""
        if hook_name not in self.hook_names:
            raise DataError(f"Expected a hook of {', '.join(self.hook_names)}, got {hook_name!r}")
        order = np.argsort(self.store_row, kind="stable")
        at = np.minimum(np.searchsorted(self.store_row, rows, sorter=order), len(order) - 1)
        place = order[at]
        vector = place * len(self.hook_names) + self.hook_names.index(hook_name)
        return np.where(self.store_row[place] == rows, vector, -1)

    def write_parquet(self, path: str | Path) -> None:
        """All fires as one Parquet table sorted by latent: `latent, row, hook_name, value`.

        Row groups are small enough for a reader to skip to a latent; memory does not grow with the table.
        """
        names = pa.array(self.hook_names, pa.string())
        schema = pa.schema(
            {"latent": pa.int32(), "row": pa.int64(), "hook_name": pa.string(), "value": pa.float32()}
        )
        indptr, indices, values = self.by_latent
        with whole(Path(path)) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for low in range(0, self.n_fires, GROUP_FIRES):
                vector = indices[low : low + GROUP_FIRES]
                latent = np.searchsorted(indptr, np.arange(low, low + len(vector)), side="right") - 1
                table = {
                    "latent": latent.astype(np.int32),
                    "row": self.rows_of(vector),
                    "hook_name": names.take(pa.array(self.hooks_of(vector))),
                    "value": values[low : low + GROUP_FIRES].astype(np.float32),
                }
                writer.write_table(pa.table(table, schema), row_group_size=GROUP_FIRES)


def open_codes(interpret: str | Path) -> dict[str, Codes]:
    """The codes of all members of a finished interpret stage, by the members' names in its tables.

    Raises:
        NotThereError: the stage kept none.
    """
    root = Path(interpret) / "codes"
    found = sorted((d for d in root.glob("*") if d.name.isdigit()), key=lambda d: int(d.name))
    codes = [Codes.open(directory) for directory in (found or [root / "0"])]
    return {one.member: one for one in codes}


def tensors(file: Path, types: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The one-dimensional tensors of a safetensors file, mapped read-only.

    Args:
        file: Whose head the safetensors library checks: tensors lie without gaps or overlap.
        types: Type of each tensor by name; all must be there.

    Raises:
        NotThereError: no such file.
        StoreError: not such a file, cut off, or with other tensors.
    """
    if not file.is_file():
        raise NotThereError(f"Expected {file}, found none; {_again(file.parent)}")
    require_sound([file])
    try:
        with safe_open(file, "numpy") as reader, file.open("rb") as handle:
            at, found = 8 + int.from_bytes(handle.read(8), "little"), {}
            entries = {name: reader.get_slice(name) for name in reader.offset_keys()}
            kinds = {name: (entry.get_dtype(), len(entry.get_shape())) for name, entry in entries.items()}
            if kinds != {name: (dtype, 1) for name, dtype in types.items()}:
                raise SafetensorError("other tensors")
            for name, entry in entries.items():
                dtype, (n,) = DTYPES[types[name]], entry.get_shape()
                found[name] = np.memmap(file, dtype, "r", at, (n,)) if n else np.zeros(0, dtype)
                at += dtype.itemsize * n
    except SafetensorError as error:
        raise StoreError(
            f"{file} is not a safetensors file of codes, or was cut off ({str(error)[:100]}); "
            f"{_again(file.parent)}"
        ) from None
    return {name: part.view(np.ndarray) for name, part in found.items()}


def header(table: dict[str, tuple[np.dtype, int]]) -> bytes:
    """The first bytes of a safetensors file of one-dimensional tensors, given dtype and length of each."""
    return head({name: (NAMES[dtype], (n,)) for name, (dtype, n) in table.items()})[0]


def _again(codes: Path) -> str:
    """How the codes in a run's `interpret/codes/<i>` are made again."""
    interpret = codes.parent.parent
    return f"delete {interpret} and run: {BY_NAME['interpret'].command(interpret.parent)}"
