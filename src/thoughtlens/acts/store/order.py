"""A seeded permutation of [0, n) that is computed, not stored."""

from __future__ import annotations

import math

import numpy as np

from thoughtlens.core import ConfigError

ROUNDS = 8


class Permutation:
    """A pseudo-random bijection of [0, n) in O(1) memory, vectorised.

    A Feistel network on Z_a x Z_b with a*b just above n; values that fall outside [0, n) walk on
    along their cycle until they are inside (Black & Rogaway 2002, "Ciphers with arbitrary finite
    domains", section 4). Not a cipher: the round function is a fast integer hash.

    Args:
        n: Size of the domain, 0 <= n < 2**62.
        key: Non-negative integers, for example (seed, epoch); another key, another order.
    """

    def __init__(self, n: int, key: tuple[int, ...]) -> None:
        if not 0 <= n < 2**62:
            raise ConfigError(f"Expected 0 <= n < 2**62 items to permute, got {n}")
        if min(key) < 0:
            raise ConfigError(f"Expected a seed >= 0, got {min(key)}")
        self.n = n
        self._a = max(math.isqrt(max(n - 1, 0)) + 1, 1)
        self._b = max(-(-n // self._a), 1)
        self._keys = np.random.SeedSequence(list(key)).generate_state(ROUNDS, np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The items at these positions of the order, int64, shape as given.

        Raises:
            IndexError: a position outside [0, n).
        """
        positions = np.asarray(positions)
        if positions.size and not (positions.min() >= 0 and positions.max() < self.n):
            raise IndexError(f"positions must lie in [0, {self.n})")
        items = self._network(positions.astype(np.uint64))
        while (outside := items >= self.n).any():
            items[outside] = self._network(items[outside])
        return items.astype(np.int64)

    def _network(self, value: np.ndarray) -> np.ndarray:
        a, b = np.uint64(self._a), np.uint64(self._b)
        left, right = value // b, value % b
        for i, key in enumerate(self._keys):
            if i % 2:
                right = _add_mod(right, _hash(left, key), b)
            else:
                left = _add_mod(left, _hash(right, key), a)
        return left * b + right


def _hash(value: np.ndarray, key: np.uint64) -> np.ndarray:
    """32 well mixed bits (the finaliser of SplitMix64; Steele et al. 2014)."""
    z = value + key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(32)


def _add_mod(value: np.ndarray, bits: np.ndarray, modulus: np.uint64) -> np.ndarray:
    """(value + a uniform number below `modulus` made of 32 bits) % modulus, without a division."""
    total = value + ((bits * modulus) >> np.uint64(32))
    return np.where(total >= modulus, total - modulus, total)
