"""Multi-step problems in modular arithmetic in which the query, not the words, decides.

A question names three chains of operations mod p and then asks for one of them::

    ann +3 *5 -2 bob *4 *9 *2 cat +1 *8 -3 bob 7 twice

"start at 7, follow bob's chain for two steps": 7 * 4 = 28 = 5, 5 * 9 = 45 = 22 (mod 23). Every
question holds one chain of each class (addition: only + and -; multiplication: only *; mixed: its
first two operations differ in kind), so the words say nothing about the class of the chain that
is asked for. A path (start, operations used) of two or more steps belongs to `test` or to `train`
by a fixed hash; one-step facts belong to both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from thoughtlens.errors import ConfigError

NAMES = ("ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal")
STEP_WORDS = ("once", "twice", "thrice")
CLASSES = ("addition", "multiplication", "mixed")
N_CHAINS = 3
N_STEPS = 3
QUESTION_LEN = N_CHAINS * (1 + N_STEPS) + 3
TEST_SHARE = 10
"""One path in this many is held out for `test`."""

Split = Literal["train", "test", "any"]
Change = Literal["start", "op1", "op2", "op3"]


@dataclass(frozen=True)
class Symbols:
    """The words of the task for one modulus, and what each operation does.

    Word ids are contiguous: numbers 0..p-1, operations, names, step words.
    """

    p: int

    def __post_init__(self) -> None:
        prime = self.p > 1 and all(self.p % q for q in range(2, int(self.p**0.5) + 1))
        if not prime or self.p - 2 < N_CHAINS * N_STEPS:
            raise ConfigError(f"Expected p to be a prime of at least 11, got {self.p}")

    @property
    def n_add(self) -> int:
        """Additive operations: +1..+(p-1), then -1..-(p-1)."""
        return 2 * (self.p - 1)

    @property
    def n_ops(self) -> int:
        """All operations; *2..*(p-1) follow the additive ones."""
        return self.n_add + self.p - 2

    @property
    def words(self) -> list[str]:
        """Every word, in the order of its id."""
        numbers = [str(v) for v in range(self.p)]
        ops = [f"{sign}{a}" for sign in "+-" for a in range(1, self.p)]
        ops += [f"*{a}" for a in range(2, self.p)]
        return [*numbers, *ops, *NAMES, *STEP_WORDS]

    def op_ids(self, ops: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """Word ids of operations."""
        return ops + self.p

    def name_ids(self, names: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """Word ids of names."""
        return names + self.p + self.n_ops

    def step_ids(self, n_steps: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """Word ids of the step counts 1..3."""
        return n_steps - 1 + self.p + self.n_ops + len(NAMES)

    def apply(self, x: Int[np.ndarray, "*n"], ops: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """The value after one operation, mod p."""
        plus = x + ops + 1
        minus = x - (ops - (self.p - 1) + 1)
        times = x * (ops - self.n_add + 2)
        out = np.where(ops < self.p - 1, plus, np.where(ops < self.n_add, minus, times))
        return out % self.p

    def is_times(self, ops: Int[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        """Whether operations are multiplications."""
        return ops >= self.n_add


@dataclass(frozen=True)
class Draw:
    """Problems as integers: C contexts of three chains, M queries on each."""

    names: Int[np.ndarray, "C 3"]
    ops: Int[np.ndarray, "C 3 3"]
    kinds: Int[np.ndarray, "C 3"]
    chain: Int[np.ndarray, "C M"]
    start: Int[np.ndarray, "C M"]
    n_steps: Int[np.ndarray, "C M"]

    @property
    def path(self) -> Int[np.ndarray, "C M 3"]:
        """The three operations of each queried chain; those past `n_steps` are not used."""
        return np.take_along_axis(self.ops, self.chain[:, :, None], axis=1)

    def values(self, symbols: Symbols) -> Int[np.ndarray, "C M 3"]:
        """The value after each step, also past `n_steps`."""
        x, out = self.start, []
        for i in range(N_STEPS):
            x = symbols.apply(x, self.path[:, :, i])
            out.append(x)
        return np.stack(out, axis=-1)


def draw(
    n_contexts: int,
    n_queries: int,
    rng: np.random.Generator,
    symbols: Symbols,
    step_weights: Sequence[float] = (1, 1, 1),
) -> Draw:
    """Fresh problems; operations of one question are all distinct, chains are asked evenly."""
    names = rng.permuted(np.tile(np.arange(len(NAMES)), (n_contexts, 1)), axis=1)[:, :N_CHAINS]
    kinds = rng.permuted(np.tile(np.arange(len(CLASSES)), (n_contexts, 1)), axis=1)
    times = _times_slots(kinds, rng)
    flat = times.reshape(n_contexts, -1)
    n_slots = flat.shape[1]
    adds = rng.random((n_contexts, symbols.n_add)).argsort(axis=1)[:, :n_slots]
    muls = rng.random((n_contexts, symbols.n_ops - symbols.n_add)).argsort(axis=1)[:, :n_slots]
    ops = np.where(flat, muls + symbols.n_add, adds).reshape(times.shape)
    order = np.tile(np.arange(n_queries) % N_CHAINS, (n_contexts, 1))
    offset = rng.integers(N_CHAINS, size=(n_contexts, 1))
    weights = np.asarray(step_weights, dtype=float)
    shape = (n_contexts, n_queries)
    return Draw(
        names=names,
        ops=ops,
        kinds=kinds,
        chain=rng.permuted((order + offset) % N_CHAINS, axis=1),
        start=rng.integers(1, symbols.p, size=shape),
        n_steps=1 + rng.choice(N_STEPS, size=shape, p=weights / weights.sum()),
    )


def _times_slots(kinds: Int[np.ndarray, "C 3"], rng: np.random.Generator) -> Bool[np.ndarray, "C 3 3"]:
    mixed = np.empty((*kinds.shape, N_STEPS), dtype=bool)
    mixed[..., 0] = rng.random(kinds.shape) < 0.5
    mixed[..., 1] = ~mixed[..., 0]
    mixed[..., 2:] = rng.random((*kinds.shape, N_STEPS - 2)) < 0.5
    return np.where(kinds[..., None] == 2, mixed, kinds[..., None] == 1)


def held_out(
    start: Int[np.ndarray, "*n"], path: Int[np.ndarray, "*n 3"], n_steps: Int[np.ndarray, "*n"]
) -> Bool[np.ndarray, "*n"]:
    """Whether a path belongs to `test`: a hash by fixed random tables (Zobrist 1970), mod 10.

    A linear hash leaks the class to a bag of words; random tables do not. One-step paths are
    never held out.
    """
    tables = np.random.default_rng(20_000).integers(2**31, size=(N_STEPS + 1, 4096))
    key = tables[0, start]
    for i in range(N_STEPS):
        key = key ^ np.where(i < n_steps, tables[i + 1, path[..., i]], 0)
    mixed = (key * 2654435761 % 2**32) >> 7
    return (mixed % TEST_SHARE == 0) & (n_steps > 1)


def question_ids(d: Draw, symbols: Symbols) -> tuple[Int[np.ndarray, "C 12"], Int[np.ndarray, "C M 3"]]:
    """Word ids of the chains (once a context) and of the queries."""
    chains = np.concatenate([symbols.name_ids(d.names)[..., None], symbols.op_ids(d.ops)], axis=-1)
    asked = np.take_along_axis(d.names, d.chain, axis=1)
    query = np.stack([symbols.name_ids(asked), d.start, symbols.step_ids(d.n_steps)], axis=-1)
    return chains.reshape(len(d.names), -1), query
