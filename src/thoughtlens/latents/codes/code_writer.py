"""Writing sparse codes: vector by vector as they are computed, then transposed without holding them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from thoughtlens.core import DataError, progress, read_json, write_json
from thoughtlens.latents.codes.codes import ORDER, Codes, CodesMeta, Compressed, header, tensors
from thoughtlens.latents.codes.member import Member

I64, I32, F32 = np.dtype("<i8"), np.dtype("<i4"), np.dtype("<f4")
SAFE_BYTES = 1 << 25
"""Bytes between two points from which a killed writer goes on."""
CHUNK_FIRES = 1 << 22
"""Fires held at once by the transposition: about 100 MB."""
MOST_VECTORS = 2**31 - 1
STREAMS = {"counts": I32, "latents": I32, "values": F32}


class CodeWriter:
    """Streams the codes of one member to disk, and goes on where a killed one stopped.

    Memory holds one row number per place and at most `CHUNK_FIRES` fires. Values are float32: what the SAE
    gives, without rounding or overflow.

    Args:
        root: The directory to make, `interpret/codes/<i>`; whole once it has a `meta.json`.
        scratch: Directory for what is not finished; removed by `finish`.
        member: The member's name in tables.
        hook_names: Hooks of a place.
        d_sae: Number of latents.
        row: Row of the store of every place.
        problem: Line in the problems table of every place, ascending.

    Raises:
        DataError: more vectors than a 32-bit index counts.
    """

    def __init__(
        self,
        root: Path,
        scratch: Path,
        *,
        member: str,
        hook_names: list[str],
        d_sae: int,
        row: Int[np.ndarray, " places"],
        problem: Int[np.ndarray, " places"],
    ) -> None:
        self.root, self.scratch, self.d_sae = root, scratch, d_sae
        self.member, self.hook_names, self.row, self.problem = member, hook_names, row, problem
        self.n_vectors = len(row) * len(hook_names)
        if self.n_vectors > MOST_VECTORS:
            raise DataError(
                f"Expected at most {MOST_VECTORS:,} vectors, got {self.n_vectors:,} for {member}; "
                f"interpret one split"
            )
        scratch.mkdir(parents=True, exist_ok=True)
        done = read_json(scratch / "done.json") if (scratch / "done.json").is_file() else {}
        self.vectors_done, self.n_fires = int(done.get("vectors", 0)), int(done.get("fires", 0))
        lengths = {"counts": self.vectors_done, "latents": self.n_fires, "values": self.n_fires}
        self.files = {name: self._open(name, n) for name, n in lengths.items()}
        self.unsafe = 0

    def append(
        self,
        counts: Int[np.ndarray, " vectors"],
        latents: Int[np.ndarray, " fires"],
        values: Float[np.ndarray, " fires"],
    ) -> None:
        """Add the next vectors: how many latents fire on each, which (ascending), and how strongly."""
        assert len(latents) == len(values) == counts.sum()
        for (name, dtype), data in zip(STREAMS.items(), (counts, latents, values), strict=True):
            self.files[name].write(np.ascontiguousarray(data, dtype).data)
        self.vectors_done, self.n_fires = self.vectors_done + len(counts), self.n_fires + len(latents)
        self.unsafe += 8 * len(latents) + 4 * len(counts)
        if self.unsafe >= SAFE_BYTES:
            self._make_safe()

    def finish(self) -> Codes:
        """Write both orders; the codes are whole when this returns."""
        assert self.vectors_done == self.n_vectors
        self._make_safe()
        for file in self.files.values():
            file.close()
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        self._write_places()
        self._write_csr()
        transpose(self.root, self.d_sae)
        meta = CodesMeta(
            member=self.member, hook_names=self.hook_names, d_sae=self.d_sae, n_vectors=self.n_vectors,
            n_fires=self.n_fires,
        )  # fmt: skip
        write_json(self.root / "meta.json", meta.to_json())
        shutil.rmtree(self.scratch)
        return Codes.open(self.root)

    def _open(self, name: str, length: int) -> BinaryIO:
        file = (self.scratch / f"{name}.raw").open("ab")
        file.truncate(length * STREAMS[name].itemsize)
        return file

    def _make_safe(self) -> None:
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        write_json(self.scratch / "done.json", {"vectors": self.vectors_done, "fires": self.n_fires})
        self.unsafe = 0

    def _write_places(self) -> None:
        with (self.root / "places.safetensors").open("wb") as file:
            file.write(header({"row": (I64, len(self.row)), "problem": (I32, len(self.row))}))
            file.write(np.ascontiguousarray(self.row, I64).data)
            file.write(np.ascontiguousarray(self.problem, I32).data)

    def _write_csr(self) -> None:
        with (self.root / "csr.safetensors").open("wb") as file:
            file.write(_header(self.n_vectors, self.n_fires))
            total = np.zeros(1, I64)
            file.write(total.data)
            for low in range(0, self.n_vectors, CHUNK_FIRES):
                name = self.scratch / "counts.raw"
                counts = np.fromfile(name, I32, min(CHUNK_FIRES, self.n_vectors - low), offset=4 * low)
                ends = total[-1] + np.cumsum(counts, dtype=I64)
                file.write(ends.data)
                total = ends
            for name in ("latents", "values"):
                with (self.scratch / f"{name}.raw").open("rb") as stream:
                    shutil.copyfileobj(stream, file, 1 << 24)


def write_codes(member: Member, root: Path, scratch: Path) -> Codes:
    """The codes of one SAE on its rows, encoded once; what is there already is not done again."""
    if (root / "meta.json").is_file():
        return Codes.open(root)
    rows, hooks = member.rows, member.hook_names
    problem = rows.problem[rows.unit]
    writer = CodeWriter(
        root, scratch, member=member.name, hook_names=hooks, d_sae=member.sae.d_sae, row=rows.row,
        problem=problem,
    )  # fmt: skip
    with progress(f"encode {member.name}", len(rows.row)) as bar:
        for low, high in rows.chunks(member.batch_size, len(rows.problem)):
            n_places = int(rows.first[high] - rows.first[low])
            if int(rows.first[low]) * len(hooks) >= writer.vectors_done:
                codes = member.codes(low, high)
                writer.append(np.diff(codes.indptr), codes.indices, codes.data)
            bar.advance(n_places)
    return writer.finish()


def transpose(root: Path, d_sae: int) -> None:
    """`csc.safetensors` from the `csr.safetensors` of a directory: a counting sort, part by part.

    A first pass counts each latent's fires and so fixes where they go; a second writes every part's share of
    each latent to its place. Memory is that of `CHUNK_FIRES` fires.
    """
    indptr, latents, values_by_vector = Compressed(**tensors(root / "csr.safetensors", ORDER))
    counts = np.zeros(d_sae, np.int64)
    for low in range(0, len(latents), CHUNK_FIRES):
        counts += np.bincount(latents[low : low + CHUNK_FIRES], minlength=d_sae)
    starts = np.r_[0, np.cumsum(counts)].astype(I64)
    top = _header(d_sae, len(latents))
    indices_at = len(top) + starts.nbytes
    values_at = indices_at + I32.itemsize * len(latents)
    free = starts[:-1].copy()
    with (root / "csc.safetensors").open("wb") as file:
        file.write(top)
        file.write(starts.data)
        file.truncate(values_at + F32.itemsize * len(latents))
        for low, high in _parts(indptr):
            a, b = int(indptr[low]), int(indptr[high])
            part = (values_by_vector[a:b], latents[a:b], indptr[low : high + 1] - a)
            columns = sp.csr_array(part, shape=(high - low, d_sae)).tocsc()
            vectors, values = (columns.indices + low).astype(I32), columns.data
            for j in np.flatnonzero(np.diff(columns.indptr)).tolist():
                here = slice(columns.indptr[j], columns.indptr[j + 1])
                for start, data in ((indices_at, vectors), (values_at, values)):
                    file.seek(start + data.itemsize * int(free[j]))
                    file.write(data[here].data)
            free += np.diff(columns.indptr)


def _header(n: int, n_fires: int) -> bytes:
    return header({"indptr": (I64, n + 1), "indices": (I32, n_fires), "values": (F32, n_fires)})


def _parts(indptr: Int[np.ndarray, " n"]) -> Iterator[tuple[int, int]]:
    """Ranges of vectors of about `CHUNK_FIRES` fires; at least one vector each."""
    low, n = 0, len(indptr) - 1
    while low < n:
        reach = int(np.searchsorted(indptr, indptr[low] + CHUNK_FIRES, side="right")) - 1
        high = min(max(reach, low + 1), n)
        yield low, high
        low = high
