"""Sparse codes on disk: where every latent of an SAE fires, by vector (CSR) and by latent (CSC).

A *vector* is one row of the store at one hook. Vectors are numbered problem by problem, each problem's rows
in the order of the store, and all hooks of a row one after the other: vector `v` is hook `v % n_hooks` of
place `v // n_hooks`. The bytes are described in docs/formats.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from jaxtyping import Float, Int

from thoughtlens.core import DataError, Entry, NotThereError, StoreError, head, read_head, read_json, whole

SCHEMA = 1
DTYPES = {"I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
GROUP_FIRES = 1 << 20
"""Fires in a row group of the Parquet form."""


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

    def __init__(self, root: Path, meta: dict[str, Any]) -> None:
        self.root, self.member, self.hook_names = root, str(meta["member"]), list(meta["hook_names"])
        self.d_sae, self.n_vectors, self.n_fires = meta["d_sae"], meta["n_vectors"], meta["n_fires"]
        places = tensors(root / "places.safetensors")
        self.store_row, self.problem = places["row"], places["problem"]
        self.by_vector, self.by_latent = (
            Compressed(**tensors(root / f"{name}.safetensors")) for name in ("csr", "csc")
        )
        for name, table, n in (("csr", self.by_vector, self.n_vectors), ("csc", self.by_latent, self.d_sae)):
            sizes = [len(part) for part in table]
            if sizes != [n + 1, self.n_fires, self.n_fires]:
                raise StoreError(
                    f"{root}/{name}.safetensors has lengths {sizes}, its meta.json says {n:,} and "
                    f"{self.n_fires:,} fires: they are of different runs. Run `thoughtlens interpret` again"
                )

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
                f"run `thoughtlens interpret` with codes = true"
            )
        meta = read_json(root / "meta.json")
        if meta.get("schema") != SCHEMA:
            raise StoreError(f"Expected codes of schema {SCHEMA} in {root}, got {meta.get('schema')!r}")
        return cls(root, meta)

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


def tensors(file: Path) -> dict[str, np.ndarray]:
    """The one-dimensional tensors of a safetensors file, mapped read-only.

    Raises:
        NotThereError: no such file.
        StoreError: not such a file, or cut off.
    """
    try:
        entries = read_head(file)
    except NotThereError:
        raise NotThereError(f"Expected {file}, found none; run `thoughtlens interpret` again") from None
    except StoreError:
        entries = {}
    known = all(entry.dtype in DTYPES for entry in entries.values())
    if not known or max((entry.end for entry in entries.values()), default=-1) != file.stat().st_size:
        raise StoreError(
            f"{file} is not a safetensors file, or was cut off; run `thoughtlens interpret` again"
        )
    return {name: _mapped(file, entry) for name, entry in entries.items()}


def header(table: dict[str, tuple[np.dtype, int]]) -> bytes:
    """The first bytes of a safetensors file of one-dimensional tensors, given dtype and length of each."""
    return head({name: (NAMES[dtype], (n,)) for name, (dtype, n) in table.items()})[0]


def _mapped(file: Path, entry: Entry) -> np.ndarray:
    dtype, (n,) = DTYPES[entry.dtype], entry.shape
    return np.memmap(file, dtype, "r", entry.start, (n,)).view(np.ndarray) if n else np.zeros(0, dtype)
