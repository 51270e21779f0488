"""Shard files: safetensors with a header that follows from the meta, one tensor per hook.

Written and read by hand, because the header must be the same bytes every time, rows are written as
they come, and reading must neither copy a shard nor keep its pages resident.
"""

from __future__ import annotations

import json
import mmap
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.errors import StoreError
from thoughtlens.store.meta import StoreMeta

CODES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
BITS = {2: np.int16, 4: np.int32}
WINDOW_BYTES = 1 << 16
"""A page fault on a mapped file brings in the pages around it, by default this much."""
RESIDENT_WINDOWS = 256
MAX_MAPS = 256
"""Each map holds a file descriptor, and 1,024 is a common limit."""


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
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    row_bytes = tuple(meta.d_in[hook] * meta.torch_dtype.itemsize for hook in meta.hook_names)
    offset, offsets = 0, []
    for hook, width in zip(meta.hook_names, row_bytes, strict=True):
        end = offset + rows * width
        shape = [rows, meta.d_in[hook]]
        table[hook] = {"dtype": CODES[meta.dtype], "shape": shape, "data_offsets": [offset, end]}
        offsets.append(offset)
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, tuple(len(header) + o for o in offsets), row_bytes, len(header) + offset)


class ShardMaps:
    """The shards of a finished store, memory-mapped.

    A *slot* numbers the vectors of a store in the order of the bytes on disk:
    `(shard * n_hooks + hook) * shard_rows + row within the shard`.
    """

    def __init__(self, root: Path, meta: StoreMeta) -> None:
        self._root, self._meta = root, meta
        self._maps: OrderedDict[int, tuple[mmap.mmap, list[np.ndarray]]] = OrderedDict()
        self._touched: set[int] = set()
        self._windows = 0

    def slots(self, hook: int | np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Slots of rows of a hook (its index in the meta)."""
        shard, row = np.divmod(rows, self._meta.shard_rows)
        return (shard * len(self._meta.hook_names) + hook) * self._meta.shard_rows + row

    def gather(self, slots: np.ndarray, d_in: int, dtype: torch.dtype) -> Float[Tensor, "n d_in"]:
        """Vectors at these slots, in the order given; read forwards, a few hundred rows at a time."""
        itemsize = self._meta.torch_dtype.itemsize
        step = max(1, RESIDENT_WINDOWS // (1 + d_in * itemsize // WINDOW_BYTES))
        order = np.argsort(slots)
        slots = slots[order]
        target, rows = torch.from_numpy(order), slots % self._meta.shard_rows
        scratch = np.empty((min(step, len(slots)), d_in), BITS[itemsize])
        stored = torch.from_numpy(scratch).view(self._meta.torch_dtype)
        out = torch.empty((len(slots), d_in), dtype=dtype)
        cuts = np.flatnonzero(np.diff(slots // self._meta.shard_rows)) + 1
        for lo, hi in zip([0, *cuts], [*cuts, len(slots)], strict=True):
            if lo == hi:
                continue
            shard, hook = divmod(int(slots[lo]) // self._meta.shard_rows, len(self._meta.hook_names))
            for i in range(lo, hi, step):
                j = min(i + step, hi)
                self._take(shard, hook, rows[i:j], scratch[: j - i])
                out.index_copy_(0, target[i:j], stored[: j - i].to(dtype))
        return out

    def _take(self, shard: int, hook: int, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy ascending rows, and give the pages back before many are resident."""
        _, tensors = self._open(shard)
        np.take(tensors[hook], rows, axis=0, out=out, mode="clip")
        self._touched.add(shard)
        windows = rows * out.strides[0] // WINDOW_BYTES
        self._windows += 1 + int(np.count_nonzero(np.diff(windows)))
        if self._windows >= RESIDENT_WINDOWS:
            for index in self._touched & self._maps.keys():
                self._maps[index][0].madvise(mmap.MADV_DONTNEED)
            self._touched.clear()
            self._windows = 0

    def _open(self, index: int) -> tuple[mmap.mmap, list[np.ndarray]]:
        if index in self._maps:
            self._maps.move_to_end(index)
            return self._maps[index]
        meta, shard = self._meta, self._meta.shards[index]
        path, plan = self._root / shard.file, layout(self._meta, shard.rows)
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        if len(data) != plan.size:
            raise StoreError(
                f"Expected {plan.size} bytes in {path}, got {len(data)}: it changed since it was opened"
            )
        bits = BITS[meta.torch_dtype.itemsize]
        tensors = [
            np.frombuffer(data, bits, shard.rows * meta.d_in[hook], start).reshape(
                shard.rows, meta.d_in[hook]
            )
            for hook, start in zip(meta.hook_names, plan.starts, strict=True)
        ]
        self._maps[index] = data, tensors
        if len(self._maps) > MAX_MAPS:
            self._maps.popitem(last=False)
        return data, tensors
