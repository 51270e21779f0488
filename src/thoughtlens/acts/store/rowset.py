"""A subset of the rows of a store, two bits a row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from thoughtlens.core import RangeError

BLOCK = 64
_COUNTS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
_SELECT = np.zeros((256, 8), np.uint8)
for _byte in range(256):
    _set = [i for i in range(8) if _byte >> i & 1]
    _SELECT[_byte, : len(_set)] = _set
"""_SELECT[byte, k]: position of the k-th set bit of a byte, lowest first."""


def numbers_in(numbers: object, n: int, what: str) -> np.ndarray:
    """A list of whole numbers in [0, n), int64.

    Raises:
        RangeError: a number outside, a mask, fractions, or no list at all.
    """
    found = np.asarray(numbers)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise RangeError(
            f"Expected a list of whole numbers in [0, {n}), {what}, got {found.dtype} of shape "
            f"{found.shape}; of a mask take np.flatnonzero"
        )
    if found.size and not 0 <= found.min() <= found.max() < n:
        raise RangeError(f"Expected numbers in [0, {n}), {what}, got {found.min()} to {found.max()}")
    return found.astype(np.int64, copy=False)


class RowSet:
    """Ascending row numbers as a bit mask with a count every 64 rows.

    Args:
        masks: Boolean arrays that follow one another, one value per row.
    """

    def __init__(self, masks: Iterator[np.ndarray]) -> None:
        packed, rest, total = [], np.zeros(0, bool), 0
        for mask in masks:
            total += len(mask)
            rest = np.concatenate([rest, mask])
            whole = len(rest) // BLOCK * BLOCK
            packed.append(np.packbits(rest[:whole], bitorder="little"))
            rest = rest[whole:]
        tail = np.zeros(BLOCK, bool)
        tail[: len(rest)] = rest
        packed.append(np.packbits(tail, bitorder="little"))
        self._bytes = np.concatenate(packed).reshape(-1, BLOCK // 8)
        counts = _COUNTS[self._bytes].sum(axis=1, dtype=np.int64)
        self._before = np.concatenate([[0], np.cumsum(counts)])
        self.n = int(self._before[-1])
        self._all = self.n == total

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Row numbers of the members at these positions, int64; fastest where they ascend."""
        if self._all:
            return positions
        block = np.searchsorted(self._before, positions, side="right") - 1
        k = positions - self._before[block]
        data = self._bytes[block]
        upto = _COUNTS[data].cumsum(axis=1, dtype=np.uint8)
        byte = (upto <= k[:, None]).sum(axis=1)
        each = np.arange(len(positions))
        k = k - upto[each, byte] + _COUNTS[data[each, byte]]
        return block * BLOCK + byte * 8 + _SELECT[data[each, byte], k]
