"""Shard files: safetensors with a header that follows from the meta, one tensor per hook.

Written and read by hand, because the header must be the same bytes every time, rows are written as
they come, and reading must neither copy a shard nor keep its pages resident.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.core import NotThereError, StoreError, again, head, removed, require_sound

CODES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
BITS = {2: torch.int16, 4: torch.int32}
"""numpy has no bfloat16: vectors are moved as integers of their size."""
PIECE_BYTES = 1 << 22


@dataclass(frozen=True)
class Layout:
    """Where the bytes of a shard with a given number of rows lie."""

    header: bytes
    starts: tuple[int, ...]
    """First byte of each hook's tensor, in the order of the meta."""
    row_bytes: tuple[int, ...]
    """Bytes of one row of each hook."""
    size: int
    """Bytes of the file."""


def layout(meta: StoreMeta, rows: int) -> Layout:
    """The layout of a shard; tensors lie in the order of `meta.hook_names`, C-contiguous."""
    row_bytes = tuple(meta.d_in[hook] * meta.torch_dtype.itemsize for hook in meta.hook_names)
    tensors = {hook: (CODES[meta.dtype], (rows, meta.d_in[hook])) for hook in meta.hook_names}
    header, entries = head(tensors, {"format": "pt"})
    starts = tuple(entry.start for entry in entries.values())
    return Layout(header, starts, row_bytes, max(entry.end for entry in entries.values()))


class ShardPart:
    """A shard while rows are added to it.

    Rows go to their place in a scratch file of full size at once, so that memory does not depend on
    `shard_rows`. The shard itself is written from there in large aligned pieces: the page cache then
    holds it in large pages, which makes shuffled reads more than twice as fast.
    """

    def __init__(self, path: Path, meta: StoreMeta, shard_rows: int) -> None:
        self.rows = 0
        self._path, self._meta = path, meta
        self._plan = layout(meta, shard_rows)
        self._scratch = path.with_suffix(".rows").open("w+b")

    def add(self, acts: list[Tensor]) -> None:
        """Add rows, given for each hook as a contiguous tensor of the stored dtype."""
        for start, row_bytes, x in zip(self._plan.starts, self._plan.row_bytes, acts, strict=True):
            self._scratch.seek(start + self.rows * row_bytes)
            self._scratch.write(x.view(torch.uint8).numpy().data)
        self.rows += len(acts[0])

    def close(self) -> tuple[int, str]:
        """Leave a whole, synced shard at the path.

        Returns:
            Its size in bytes and its sha256.
        """
        header = layout(self._meta, self.rows).header
        sha256 = hashlib.sha256(header)
        with self._path.open("wb") as target:
            target.write(header)
            for start, row_bytes in zip(self._plan.starts, self._plan.row_bytes, strict=True):
                self._scratch.seek(start)
                left = self.rows * row_bytes
                while left:
                    piece = self._scratch.read(min(left, PIECE_BYTES - target.tell() % PIECE_BYTES))
                    sha256.update(piece)
                    left -= target.write(piece)
            self._scratch.close()
            Path(self._scratch.name).unlink()
            target.flush()
            os.fsync(target.fileno())
            return target.tell(), sha256.hexdigest()


class ShardMaps:
    """The shards of a finished store, memory-mapped.

    Safe to read from several threads. At most `max_maps` shards are mapped and `resident_windows`
    windows of them resident, so memory does not grow with the store.
    """

    window_bytes = 1 << 21
    """A page fault on a mapped file can bring in a whole huge page."""
    resident_windows = 4
    """Windows that may be resident before all are given back: 8 MiB."""
    piece_rows = 256
    """Rows copied at a time, so that a piece stays in the processor's cache."""
    max_maps = 256
    """Each map holds a file descriptor, and 1,024 is a common limit."""

    def __init__(self, root: Path, meta: StoreMeta) -> None:
        self._root, self._meta = root, meta
        self._maps: OrderedDict[int, tuple[mmap.mmap, list[np.ndarray]]] = OrderedDict()
        self._touched: set[int] = set()
        self._sound: set[int] = set()
        self._windows = 0
        self._lock = threading.Lock()

    def read(
        self, hook: int | np.ndarray, row: np.ndarray, d_in: int, dtype: torch.dtype | None
    ) -> Float[Tensor, "n d_in"]:
        """Vectors (hook, row) in the order given; hooks by their index; `dtype=None` as stored."""
        x = torch.empty((len(row), d_in), dtype=self._meta.torch_dtype)
        self.gather(hook, row, x)
        return x if dtype is None else x.to(dtype)

    def gather(self, hook: int | np.ndarray, row: np.ndarray, out: Float[Tensor, "n d_in"]) -> None:
        """Copy vectors (hook, row) to `out`, of the stored dtype; the files are read forwards."""
        bits = out.view(BITS[out.itemsize]).numpy()
        shard, row = np.divmod(row, self._meta.shard_rows)
        slot = (shard * len(self._meta.hook_names) + hook) * self._meta.shard_rows + row
        self._require_sound(shard)
        order = np.argsort(slot)
        tensor, row = np.divmod(slot[order], self._meta.shard_rows)
        windows = np.cumsum(_changes(tensor) | _changes(row * bits.strides[0] // self.window_bytes))
        piece = _changes(tensor) | _changes(windows // self.resident_windows)
        piece[:: self.piece_rows] = True
        edges = [*np.flatnonzero(piece).tolist(), len(row)]
        for start, stop in itertools.pairwise(edges):
            shard, hook = divmod(int(tensor[start]), len(self._meta.hook_names))
            with self._lock:
                bits[order[start:stop]] = self._tensors(shard)[hook][row[start:stop]]
                self._release(shard, int(windows[stop - 1] - windows[start]) + 1)

    def _require_sound(self, shards: np.ndarray) -> None:
        """Compare shards with their digests before their first use."""
        with self._lock:
            if new := set(np.unique(shards).tolist()) - self._sound:
                require_sound(self._root / self._meta.shards[index].file for index in new)
                self._sound |= new

    def _release(self, shard: int, windows: int) -> None:
        """Give pages back to the system before many are resident."""
        self._touched.add(shard)
        self._windows += windows
        if self._windows >= self.resident_windows:
            for index in self._touched & self._maps.keys():
                self._maps[index][0].madvise(mmap.MADV_DONTNEED)
            self._touched.clear()
            self._windows = 0

    def _tensors(self, index: int) -> list[np.ndarray]:
        """The tensors of a shard as integers of their size."""
        if index not in self._maps:
            self._maps[index] = self._map(index)
            if len(self._maps) > self.max_maps:
                self._maps.popitem(last=False)
        self._maps.move_to_end(index)
        return self._maps[index][1]

    def _map(self, index: int) -> tuple[mmap.mmap, list[np.ndarray]]:
        meta, shard = self._meta, self._meta.shards[index]
        path, plan = self._root / shard.file, layout(self._meta, shard.rows)
        if not path.is_file() and shard.file in removed(self._root):
            raise NotThereError(
                f"The activations of {self._root} were deleted on purpose (thoughtlens runs --clean); make "
                f"them again: {again(self._root)}"
            )
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        if len(data) != plan.size:
            raise StoreError(
                f"Expected {plan.size} bytes in {path}, got {len(data)}: it changed since it was opened"
            )
        bits = np.dtype(f"i{meta.torch_dtype.itemsize}")
        tensors = []
        for hook, start in zip(meta.hook_names, plan.starts, strict=True):
            flat = np.frombuffer(data, bits, shard.rows * meta.d_in[hook], start)
            tensors.append(flat.reshape(shard.rows, meta.d_in[hook]))
        return data, tensors


def _changes(values: np.ndarray) -> np.ndarray:
    """Where a value differs from the one before it; the first does."""
    changed = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=changed[1:])
    return changed
