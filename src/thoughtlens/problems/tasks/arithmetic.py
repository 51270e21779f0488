"""Multi-step problems in modular arithmetic in which the query, not the words, decides.

A question names three chains of operations mod p and then asks for one of them::

    ann +3 *5 -2 bob *4 *9 *2 cat +1 *8 -3 bob 7 twice

"start at 7, follow bob's chain for two steps": 7 * 4 = 28 = 5, 5 * 9 = 45 = 22 (mod 23). Every
question holds one chain of each class (addition: only + and -; multiplication: only *; mixed: its
first two operations differ in kind), so the words say nothing about the class of the chain that
is asked for. A path (start, operations used) belongs to `test`, `validation` or `train` by a fixed
hash (1 : 1 : 8), so splits and groups never share a path. The shipped models were trained on no
`test` path of two or more steps; one-step facts they have all seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from thoughtlens.core import ConfigError, DataError

NAMES = ("ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal")
STEP_WORDS = ("once", "twice", "thrice")
CLASSES = ("addition", "multiplication", "mixed")
P = 23
"""Default modulus."""
N_CHAINS = 3
N_STEPS = 3
QUESTION_LEN = N_CHAINS * (1 + N_STEPS) + 3
SPLITS = ("test", "validation", *["train"] * 8)
"""Split of a path by its hash mod 10."""

SPLIT_NAMES = ("train", "validation", "test", "any")
CHANGES = ("start", "op1", "op2", "op3")


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
        a, signs = self.operands(ops), self.signs(ops)
        return np.where(signs == 0, x + a, np.where(signs == 1, x - a, x * a)) % self.p

    def signs(self, ops: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """0, 1, 2 for +, -, *."""
        return np.where(ops < self.p - 1, 0, np.where(ops < self.n_add, 1, 2))

    def operands(self, ops: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """The number that an operation adds, subtracts or multiplies by."""
        first = np.array([-1, self.p - 2, self.n_add - 2])
        return ops - first[self.signs(ops)]

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

    @property
    def bucket(self) -> Int[np.ndarray, "C M"]:
        """Which tenth of all paths each one belongs to; index into `SPLITS`."""
        return path_hash(self.start, self.path, self.n_steps)

    @property
    def held_out(self) -> Bool[np.ndarray, "C M"]:
        """Whether a path must not be trained on: `test`, and more than one step."""
        return (self.bucket == 0) & (self.n_steps > 1)


D = TypeVar("D", bound=Draw)


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


def path_hash(
    start: Int[np.ndarray, "*n"], path: Int[np.ndarray, "*n 3"], n_steps: Int[np.ndarray, "*n"]
) -> Int[np.ndarray, "*n"]:
    """0..9 for the operations of a path that are used; index into `SPLITS`.

    XOR of fixed random tables (Zobrist 1970), then a multiplicative hash. A linear hash leaks the
    class to a bag of words; random tables do not.
    """
    tables = np.random.default_rng(20_000).integers(2**31, size=(N_STEPS + 1, 4096))
    key = tables[0, start]
    for i in range(N_STEPS):
        key = key ^ np.where(i < n_steps, tables[i + 1, path[..., i]], 0)
    return ((key * 2654435761 % 2**32) >> 7) % len(SPLITS)


def question_ids(d: Draw, symbols: Symbols) -> tuple[Int[np.ndarray, "C 12"], Int[np.ndarray, "C M 3"]]:
    """Word ids of the chains (once a context) and of the queries."""
    chains = np.concatenate([symbols.name_ids(d.names)[..., None], symbols.op_ids(d.ops)], axis=-1)
    asked = np.take_along_axis(d.names, d.chain, axis=1)
    query = np.stack([symbols.name_ids(asked), d.start, symbols.step_ids(d.n_steps)], axis=-1)
    return chains.reshape(len(d.names), -1), query


def problems(
    n: int, *, seed: int, split: str = "any", p: int = P, n_steps: Sequence[int] = (2, 3)
) -> pa.Table:
    """A table of `n` fresh problems.

    Args:
        n: Rows.
        seed: Fixes every row.
        split: Only paths of this split; with `any` the column `split` says where each belongs.
        p: The modulus, a prime of at least 11.
        n_steps: Numbers of steps asked for, equally often. A one-step problem has no mixed class:
            its `operation` is that of its only operation.

    Returns:
        `problem_id, group_id (the path), split, question, answer, cot` and the labels `operation,
        n_steps, template_id, start, op1..op3, v1..v3`; operations and values past `n_steps` are
        null. `cot` is the teacher's text, without the last value, which is the answer.

    Raises:
        DataError: no such split or number of steps, no problems asked for, or a negative seed.
        ConfigError: p is not a prime of at least 11.
    """
    symbols = Symbols(p)
    d = draw_split(n, generator(n, seed), symbols, split, n_steps)
    text = _questions(d, symbols)
    return table(d, symbols, f"{split}-{seed}", text, template_id=np.zeros(n, int))


def twins(
    n: int, *, seed: int, split: str = "any", change: str = "start", p: int = P, n_steps: int = 3
) -> tuple[pa.Table, pa.Table]:
    """Counterfactual pairs: row i of both tables is one question with one element changed.

    What changes is the start value, or the operand of one operation (`+3` to `+7`, never to `-7`). The
    value after the changed step and the answer differ in each pair, both paths belong to `split`
    (unless `any`), and both rows carry the group of the first.

    Raises:
        ConfigError: no such `change`, or one past `n_steps`.
        DataError: no pairs asked for, or a negative seed.
    """
    symbols, rng = Symbols(p), generator(n, seed, slot(change, n_steps))
    first, second = draw_twins(n, rng, symbols, split=split, change=change, n_steps=n_steps)
    texts = [_questions(d, symbols) for d in (first, second)]
    tables = [
        table(d, symbols, f"{split}-{seed}-{change}", text, template_id=np.zeros(n, int))
        for d, text in zip((first, second), texts, strict=True)
    ]
    return tables[0], as_twin(tables[1], tables[0])


def generator(n: int, seed: int, *more: int) -> np.random.Generator:
    """Source of the choices for `n` problems.

    Raises:
        DataError: no problems asked for, or a negative seed.
    """
    if n < 1 or seed < 0:
        raise DataError(f"Expected n >= 1 and seed >= 0, got n={n}, seed={seed}")
    return np.random.default_rng((seed, n, *more))


def slot(change: str, n_steps: int) -> int:
    """0 for the start value, i for the i-th operation.

    Raises:
        ConfigError: no such `change`, or one past `n_steps`.
    """
    if change not in CHANGES[: n_steps + 1]:
        raise ConfigError(f"Expected change to be one of {list(CHANGES[: n_steps + 1])}, got {change!r}")
    return CHANGES.index(change)


def draw_twins(
    n: int, rng: np.random.Generator, symbols: Symbols, *, split: str, change: str, n_steps: int
) -> tuple[Draw, Draw]:
    """The pairs of `twins` as integers."""
    found: list[tuple[Draw, Draw]] = []
    while sum(len(a.names) for a, _ in found) < n:
        d = draw_split(n, rng, symbols, split, (n_steps,))
        twin, valid = twin_of(d, symbols, rng, split=split, slot=slot(change, n_steps))
        found.append((take(d, valid), take(twin, valid)))
    first, second = (take(join(side), np.arange(n)) for side in zip(*found, strict=True))
    return first, second


def as_twin(table: pa.Table, of: pa.Table) -> pa.Table:
    """The second table of a pair: ids marked, groups those of the first."""
    ids = pa.array([f"{i}-twin" for i in of["problem_id"].to_pylist()])
    for name, column in (("problem_id", ids), ("group_id", of["group_id"])):
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def twin_of(
    d: D, symbols: Symbols, rng: np.random.Generator, *, split: str, slot: int, tries: int = 40
) -> tuple[D, Bool[np.ndarray, " C"]]:
    """The first of `tries` random replacements that fits, and whether there was one."""
    rows, before = np.arange(len(d.names)), d.values(symbols)[:, 0]
    twin, valid = d, np.zeros(len(rows), dtype=bool)
    used = d.n_steps[:, 0] - 1
    for _ in range(tries):
        start, ops = d.start.copy(), d.ops.copy()
        if slot == 0:
            start[:, 0] = rng.integers(1, symbols.p, size=len(rows))
            fresh = start[:, 0] != d.start[:, 0]
        else:
            old = d.path[:, 0, slot - 1]
            adds = rng.integers(symbols.n_add, size=len(rows))
            muls = rng.integers(symbols.n_add, symbols.n_ops, size=len(rows))
            new = np.where(symbols.is_times(old), muls, adds)
            fresh = (d.ops != new[:, None, None]).all((1, 2))
            fresh &= symbols.signs(new) == symbols.signs(old)
            ops[rows, d.chain[:, 0], slot - 1] = new
        candidate = replace(d, start=start, ops=ops)
        after = candidate.values(symbols)[:, 0]
        ok = fresh & (after[rows, max(slot - 1, 0)] != before[rows, max(slot - 1, 0)])
        ok &= (after[rows, used] != before[rows, used]) & _in_split(candidate, split) & ~valid
        twin = replace(
            twin,
            start=np.where(ok[:, None], start, twin.start),
            ops=np.where(ok[:, None, None], ops, twin.ops),
        )
        valid |= ok
    return twin, valid


def _in_split(d: Draw, split: str) -> Bool[np.ndarray, " C"]:
    names = split_of(d)
    return np.full(len(names), True) if split == "any" else names == split


def split_of(d: Draw) -> np.ndarray:
    """Split of the first query of each context."""
    return np.array(SPLITS)[d.bucket[:, 0]]


def draw_split(
    n: int,
    rng: np.random.Generator,
    symbols: Symbols,
    split: str,
    n_steps: Sequence[int],
    *,
    fresh: Callable[..., D] = draw,
) -> D:
    """`n` contexts of one query each, by `draw` or another function like it."""
    if split not in SPLIT_NAMES:
        raise DataError(f"split: expected one of {', '.join(SPLIT_NAMES)}, got {split!r}")
    if not n_steps or not set(n_steps) <= set(range(1, N_STEPS + 1)):
        raise DataError(f"Expected n_steps from 1..{N_STEPS}, got {tuple(n_steps)}")
    weights = [float(k in n_steps) for k in range(1, N_STEPS + 1)]
    parts: list[D] = []
    while sum(len(part.names) for part in parts) < n:
        d = fresh(max(n, 64), 1, rng, symbols, weights)
        parts.append(take(d, _in_split(d, split)))
    return take(join(parts), np.arange(n))


def take(d: D, rows: np.ndarray) -> D:
    """Some of the contexts."""
    return type(d)(*(getattr(d, f.name)[rows] for f in fields(d)))


def join(parts: Sequence[D]) -> D:
    """All contexts, one after the other."""
    kind = type(parts[0])
    return kind(*(np.concatenate([getattr(d, f.name) for d in parts]) for f in fields(kind)))


def _questions(d: Draw, symbols: Symbols) -> list[str]:
    words = np.array(symbols.words)
    chains, query = question_ids(d, symbols)
    return [" ".join(words[row]) for row in np.concatenate([chains, query[:, 0]], axis=1)]


def table(
    d: Draw, symbols: Symbols, prefix: str, questions: Sequence[str], **columns: np.ndarray
) -> pa.Table:
    """The columns that `problems` describes, for contexts of one query each; `columns` follow `n_steps`."""
    words = np.array(symbols.words)
    n_steps, start = d.n_steps[:, 0], d.start[:, 0]
    ops, values = words[symbols.op_ids(d.path[:, 0])], d.values(symbols)[:, 0]
    kinds = np.where(
        n_steps == 1, symbols.is_times(d.path[:, 0, 0]), d.kinds[np.arange(len(start)), d.chain[:, 0]]
    )
    unused = np.arange(N_STEPS) >= n_steps[:, None]
    cot = [
        " ".join(w for i in range(k) for w in (ops[r, i], str(values[r, i]))[: 2 if i < k - 1 else 1])
        for r, k in enumerate(n_steps)
    ]
    rows = {
        "problem_id": [f"{prefix}-{i:06d}" for i in range(len(start))],
        "group_id": [f"{x}{''.join(o[:k])}" for x, o, k in zip(start, ops, n_steps, strict=True)],
        "split": split_of(d),
        "question": questions,
        "answer": [str(v) for v in values[np.arange(len(start)), n_steps - 1]],
        "cot": cot,
        "operation": np.array(CLASSES)[kinds],
        "n_steps": n_steps,
        **columns,
        "start": start,
    }
    out = {name: pa.array(column) for name, column in rows.items()}
    out |= {f"op{i + 1}": pa.array(ops[:, i], mask=unused[:, i]) for i in range(N_STEPS)}
    out |= {f"v{i + 1}": pa.array(values[:, i], mask=unused[:, i]) for i in range(N_STEPS)}
    return pa.table(out)


def answers_after(table: pa.Table, column: str, values: Sequence[int], *, p: int = P) -> list[str] | None:
    """Each answer if `column` (start, v1, v2, v3) had this value, and all later operations were the same.

    Of problems with a secret `secret_start`, `s1`, `s2` and `s3` are its values. An answer that shows the
    other chain stays as it is. None for problems that are not of this task, or a column that holds no value.
    """
    own = {"start": 0} | {f"v{i + 1}": i + 1 for i in range(N_STEPS)}
    secret = {"secret_start": 0} | {f"s{i + 1}": i + 1 for i in range(N_STEPS)}
    steps = own | (secret if "released" in table.column_names else {})
    operations = [f"op{i + 1}" for i in range(N_STEPS)]
    if column not in steps or not {"n_steps", *operations} <= set(table.column_names):
        return None
    symbols = Symbols(p)
    code = {word: i - p for i, word in enumerate(symbols.words)}
    x, n_steps = np.asarray(values, dtype=int), np.array(table["n_steps"])
    for i in range(steps[column], N_STEPS):
        words = table[operations[i]].to_pylist()
        if any(word is not None and word not in code for word in words):
            return None
        ops = np.array([0 if word is None else code[word] for word in words])
        x = np.where(i < n_steps, symbols.apply(x, ops), x)
    after = [str(v) for v in x]
    if "released" not in table.column_names:
        return after
    shows = [released == (column in secret) for released in table["released"].to_pylist()]
    rows = zip(after, table["answer"].to_pylist(), shows, strict=True)
    return [new if shown else old for new, old, shown in rows]
