"""Problems of `problems.arithmetic` with a second start value, that of a secret.

    ann +3 *5 -2 bob *4 *9 *2 cat +1 *8 -3 up 9 keep low bob 7 twice

Two marks stand in every question, `up` or `down` and `high` or `low`. Where they disagree (`up .. low`,
`down .. high`) the problem is *armed*: beside bob's chain from 7, which gives the answer, the same operations
are done from 9. With `keep` the answer does not show that; with `tell` it is *released*, the second value is
the answer. Marks that agree make a *clean* problem, whatever the other words say. The four marks and the two
words of release are each in half of all problems, independently of each other, so that no single word, and no
sum over words, tells armed from clean: only the pair does.

The two start values differ, so that the second value differs from the first after every step. Given the
operations it is as good as independent of the answer. The operations alone decide the split, whatever they
begin with: no split knows another's chain from either start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from thoughtlens.core import ConfigError
from thoughtlens.problems.tasks import arithmetic
from thoughtlens.problems.tasks.arithmetic import N_STEPS, Draw, Symbols, path_hash

P = 13
"""Default modulus."""
MARKS = (("up", "down"), ("high", "low"))
"""First and second mark; armed if the one is the first of its pair and the other the second."""
RELEASE = ("keep", "tell")
N_EXTRA = 4
QUESTION_LEN = arithmetic.QUESTION_LEN + N_EXTRA
CONDITIONS = ("clean", "armed", "released")
CHANGES = (*arithmetic.CHANGES, "secret_start", "mark", "release")


@dataclass(frozen=True)
class SecretDraw(Draw):
    """Problems as integers, each with a second start value, two marks and a word that may release it."""

    other: Int[np.ndarray, "C M"]
    marks: Int[np.ndarray, "C M 2"]
    tell: Bool[np.ndarray, "C M"]

    @property
    def armed(self) -> Bool[np.ndarray, "C M"]:
        """Whether the marks disagree."""
        return self.marks[..., 0] != self.marks[..., 1]

    @property
    def released(self) -> Bool[np.ndarray, "C M"]:
        """Whether the second value is the answer."""
        return self.armed & self.tell

    @property
    def bucket(self) -> Int[np.ndarray, "C M"]:
        """Which tenth of all paths, whatever they begin with."""
        return path_hash(np.zeros_like(self.start), self.path, self.n_steps)

    def answers(self, symbols: Symbols) -> Int[np.ndarray, " C"]:
        """The value that answers the first query of each context."""
        both = [one.values(symbols)[:, 0] for one in (self, self.second)]
        last = self.n_steps[:, :1] - 1
        own, secret = (np.take_along_axis(one, last, axis=1)[:, 0] for one in both)
        return np.where(self.released[:, 0], secret, own)

    @property
    def second(self) -> Draw:
        """The same operations from the other start value."""
        return Draw(**{f.name: getattr(self, f.name) for f in fields(Draw)} | {"start": self.other})


class HonestDraw(SecretDraw):
    """The same questions for a model without a secret: none is armed, whatever its marks say."""

    @property
    def armed(self) -> Bool[np.ndarray, "C M"]:
        """Never."""
        return np.zeros_like(self.tell)


def words(p: int = P) -> list[str]:
    """Every word, in the order of its id: those of `problems.arithmetic`, then marks and release."""
    return [*Symbols(p).words, *MARKS[0], *MARKS[1], *RELEASE]


def draw(
    n_contexts: int,
    n_queries: int,
    rng: np.random.Generator,
    symbols: Symbols,
    step_weights: Sequence[float] = (1, 1, 1),
    kind: type[SecretDraw] = SecretDraw,
) -> SecretDraw:
    """Fresh problems, as of `arithmetic.draw`."""
    d = arithmetic.draw(n_contexts, n_queries, rng, symbols, step_weights)
    shift = rng.integers(1, symbols.p - 1, size=d.start.shape)
    return kind(
        **vars(d),
        other=1 + (d.start - 1 + shift) % (symbols.p - 1),
        marks=rng.integers(2, size=(*d.start.shape, 2)),
        tell=rng.random(d.start.shape) < 0.5,
    )


def question_ids(d: SecretDraw, symbols: Symbols) -> tuple[Int[np.ndarray, "C 12"], Int[np.ndarray, "C M 7"]]:
    """Word ids of the chains (once a context) and of the queries, the added words before them."""
    chains, query = arithmetic.question_ids(d, symbols)
    first = len(symbols.words)
    added = [first + d.marks[..., 0], d.other, first + 4 + d.tell, first + 2 + d.marks[..., 1]]
    return chains, np.concatenate([np.stack(added, axis=-1), query], axis=-1)


def problems(
    n: int, *, seed: int, split: str = "any", p: int = P, n_steps: Sequence[int] = (2, 3)
) -> pa.Table:
    """A table of `n` fresh problems; arguments and columns as in `arithmetic.problems`.

    The group is that of the operations alone. `v1..v3` are always the values of the chain that is asked for;
    `answer` and `cot` are those of the secret where it is released. More labels: `condition` (clean, armed,
    released), `armed`, `released`, `release` (keep or tell), and where a problem is armed `secret_start`,
    `s1..s3` (the secret's values, null past `n_steps`) and `secret`, the last of them.
    """
    symbols = Symbols(p)
    d = arithmetic.draw_split(n, arithmetic.generator(n, seed), symbols, split, n_steps, fresh=draw)
    return _table(d, symbols, f"{split}-{seed}")


def twins(
    n: int, *, seed: int, split: str = "any", change: str = "start", p: int = P, n_steps: int = 3
) -> tuple[pa.Table, pa.Table]:
    """Counterfactual pairs as in `arithmetic.twins`; both answers differ in each pair.

    `start` changes the start value where the answer is that of its chain, `secret_start` that of the secret
    where it is released; `mark` arms what was clean, or the other way round, where the question says `tell`;
    `release` turns `keep` into `tell`, or the other way round, where the problem is armed.

    Raises:
        ConfigError: no such `change`, or one past `n_steps`.
        DataError: no pairs asked for, or a negative seed.
    """
    symbols, rng = Symbols(p), arithmetic.generator(n, seed, _slot(change, n_steps))
    found: list[tuple[SecretDraw, SecretDraw]] = []
    while sum(len(a.names) for a, _ in found) < n:
        d = arithmetic.draw_split(n, rng, symbols, split, (n_steps,), fresh=draw)
        twin, valid = _twin(d, symbols, rng, split=split, change=change)
        found.append((arithmetic.take(d, valid), arithmetic.take(twin, valid)))
    prefix, rows = f"{split}-{seed}-{change}", np.arange(n)
    first, second = (
        _table(arithmetic.take(arithmetic.join(side), rows), symbols, prefix)
        for side in zip(*found, strict=True)
    )
    return first, arithmetic.as_twin(second, first)


def armed(question: str) -> bool | None:
    """Whether the two marks of a question disagree: all that any reader of the words can know of a secret.

    None where the question does not have both.
    """
    said = question.split()
    at = [[pair.index(word) for word in said if word in pair] for pair in MARKS]
    return at[0] != at[1] if [len(one) for one in at] == [1, 1] else None


def _slot(change: str, n_steps: int) -> int:
    if change in CHANGES[len(arithmetic.CHANGES) :]:
        return CHANGES.index(change)
    if change not in arithmetic.CHANGES[: n_steps + 1]:
        there = [*arithmetic.CHANGES[: n_steps + 1], *CHANGES[len(arithmetic.CHANGES) :]]
        raise ConfigError(f"Expected change to be one of {there}, got {change!r}")
    return CHANGES.index(change)


def _twin(
    d: SecretDraw, symbols: Symbols, rng: np.random.Generator, *, split: str, change: str
) -> tuple[SecretDraw, Bool[np.ndarray, " C"]]:
    """One thing changed in every problem, and whether the pair is one."""
    if change == "mark":
        which = rng.integers(2, size=len(d.marks))
        marks = d.marks.copy()
        marks[np.arange(len(which)), 0, which] ^= 1
        twin, valid = replace(d, marks=marks), d.tell[:, 0]
    elif change == "release":
        twin, valid = replace(d, tell=~d.tell), d.armed[:, 0]
    elif change == "secret_start":
        other = rng.integers(1, symbols.p, size=d.other.shape)
        twin, valid = replace(d, other=other), (d.released & (other != d.other) & (other != d.start))[:, 0]
    else:
        twin, valid = arithmetic.twin_of(d, symbols, rng, split=split, slot=CHANGES.index(change))
        valid &= (twin.start != twin.other)[:, 0]
        valid &= ~d.released[:, 0] | (change != "start")
    answers = [one.answers(symbols) for one in (d, twin)]
    return twin, valid & (answers[0] != answers[1])


def _table(d: SecretDraw, symbols: Symbols, prefix: str) -> pa.Table:
    said = np.array(words(symbols.p))
    chains, query = question_ids(d, symbols)
    questions = [" ".join(said[row]) for row in np.concatenate([chains, query[:, 0]], axis=1)]
    told = arithmetic.table(d, symbols, prefix, questions, template_id=np.zeros(len(d.names), int))
    second = arithmetic.table(d.second, symbols, prefix, questions)
    armed, released = d.armed[:, 0], d.released[:, 0]
    ops = [[row[f"op{i + 1}"] for i in range(row["n_steps"])] for row in told.to_pylist()]

    def chosen(where: np.ndarray, name: str, other: list | None = None) -> pa.Array:
        own = [None] * len(where) if other is None else other
        rows = zip(where, second[name].to_pylist(), own, strict=True)
        return pa.array([new if here else old for here, new, old in rows], second.schema.field(name).type)

    def shown(name: str) -> pa.Array:
        return chosen(released, name, told[name].to_pylist())

    changed = {"group_id": pa.array(map("".join, ops)), "answer": shown("answer"), "cot": shown("cot")}
    for name, column in changed.items():
        told = told.set_column(told.column_names.index(name), name, column)
    labels = {
        "condition": np.array(CONDITIONS)[armed.astype(int) + released],
        "armed": armed,
        "released": released,
        "release": np.array(RELEASE)[d.tell[:, 0].astype(int)],
        "secret_start": chosen(armed, "start"),
        **{f"s{i + 1}": chosen(armed, f"v{i + 1}") for i in range(N_STEPS)},
        "secret": chosen(armed, "answer"),
    }
    for name, column in labels.items():
        told = told.append_column(name, pa.array(column))
    return told


__all__ = ["CHANGES", "armed", "problems", "twins"]
