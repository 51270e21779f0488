"""The problems of `problems.arithmetic` told in English sentences.

Three people each have a rule of three operations; the last sentence asks for one of them::

    the rule of anna : first add 7 , then multiply by 3 , finally subtract 5 . ben initially gains 4 ,
    then loses 9 and lastly scales by 2 . ... what does ben get after two steps from 4 ?

Operation and operand are words of their own, synonyms and sentence patterns vary, and in some
patterns the order of telling is not the order of doing: `first`, `then`, `finally` and their like say
which is which. As in `problems.arithmetic` only the query decides the operation class, and the
path decides the split. Problems of `test` are told in sentence patterns, query patterns and names that
no problem of another split has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from thoughtlens.problems.tasks import arithmetic, patterns
from thoughtlens.problems.tasks.arithmetic import CHANGES, N_CHAINS, N_STEPS, Draw, Symbols

NAMES = (*patterns.TRAIN_NAMES.split(), *patterns.HELD_OUT_NAMES.split())
N_TRAIN_NAMES = len(patterns.TRAIN_NAMES.split())
P = 11
"""Default modulus."""


@dataclass(frozen=True)
class Pattern:
    """A sentence with slots; `mood` is the form of its verbs."""

    words: tuple[str, ...]
    mood: str


def _patterns(table: dict[str, tuple[str, ...]]) -> list[Pattern]:
    return [Pattern(tuple(text.split()), mood) for mood, texts in table.items() for text in texts]


ALL_PATTERNS = (*_patterns(patterns.PATTERNS), *_patterns(patterns.HELD_OUT_PATTERNS))
N_TRAIN_PATTERNS = len(_patterns(patterns.PATTERNS))
N_TRAIN_QUERIES = len(patterns.QUERIES)
ALL_QUERIES = tuple(tuple(text.split()) for text in (*patterns.QUERIES, *patterns.HELD_OUT_QUERIES))
PHRASES = {
    mood: [[verb.split("_") for verb in verbs.split()] for verbs in row]
    for mood, row in patterns.VERBS.items()
}
N_VERBS = 3


@dataclass(frozen=True)
class Wording:
    """How C contexts and their M queries are told; every number is an index."""

    names: Int[np.ndarray, "C 3"]
    patterns: Int[np.ndarray, "C 3"]
    verbs: Int[np.ndarray, "C 3 3"]
    queries: Int[np.ndarray, "C M"]


def vocabulary(p: int = P) -> list[str]:
    """Every word in the order of its id: numbers, operations of the chain of thought, names, the rest."""
    symbols = Symbols(p)
    numbers_and_ops = symbols.words[: p + symbols.n_ops]
    texts = [w for pattern in ALL_PATTERNS for w in pattern.words] + [w for q in ALL_QUERIES for w in q]
    verbs = [w for row in PHRASES.values() for synonyms in row for verb in synonyms for w in verb]
    rest = (
        {w for w in texts if not w.startswith("{")} | set(verbs) | set(" ".join(patterns.STEP_WORDS).split())
    )
    return [*numbers_and_ops, *NAMES, *sorted(rest)]


def question_len() -> int:
    """Words of the longest question."""
    longest = {mood: max(len(v) for synonyms in row for v in synonyms) for mood, row in PHRASES.items()}
    sentence = max(len(p.words) + N_STEPS * longest[p.mood] for p in ALL_PATTERNS)
    return N_CHAINS * sentence + max(query_len(q) for q in range(len(ALL_QUERIES)))


def query_len(query: int) -> int:
    """Words of a query pattern when its slots are filled."""
    return len(ALL_QUERIES[query]) + ("{k}" in ALL_QUERIES[query])


def wording(
    held_out: Bool[np.ndarray, " C"], rng: np.random.Generator, queries: Int[np.ndarray, "C M"] | None = None
) -> Wording:
    """Random wording; contexts with `held_out` get patterns, queries and names kept for `test`.

    Args:
        held_out: One entry a context.
        rng: Source of the choices.
        queries: Query patterns, where they are chosen already; else one a context is drawn.
    """
    n = len(held_out)
    names = np.where(
        held_out[:, None],
        _three(n, N_TRAIN_NAMES, len(NAMES), rng),
        _three(n, 0, N_TRAIN_NAMES, rng),
    )
    chosen = _choose(held_out, N_TRAIN_PATTERNS, len(ALL_PATTERNS), (n, N_CHAINS), rng)
    if queries is None:
        queries = _choose(held_out, N_TRAIN_QUERIES, len(ALL_QUERIES), (n, 1), rng)
    verbs = rng.integers(N_VERBS, size=(n, N_CHAINS, N_STEPS))
    return Wording(names, chosen, verbs, queries)


def _three(n: int, low: int, high: int, rng: np.random.Generator) -> Int[np.ndarray, "C 3"]:
    return low + rng.random((n, high - low)).argsort(axis=1)[:, :N_CHAINS]


def _choose(
    held_out: Bool[np.ndarray, " C"], n_train: int, n: int, shape: tuple[int, int], rng: np.random.Generator
) -> Int[np.ndarray, "C n"]:
    known, new = rng.integers(n_train, size=shape), rng.integers(n_train, n, size=shape)
    return np.where(held_out[:, None], new, known)


def contexts(d: Draw, w: Wording, symbols: Symbols) -> tuple[list[list[str]], Int[np.ndarray, "C 3 3"]]:
    """The words of the three rules of every context, and the place of every operand in them."""
    kinds, operands = symbols.signs(d.ops), symbols.operands(d.ops)
    texts, places = [], np.empty(d.ops.shape, dtype=int)
    for c in range(len(d.ops)):
        words: list[str] = []
        for i in range(N_CHAINS):
            pattern = ALL_PATTERNS[w.patterns[c, i]]
            for word in pattern.words:
                if word[0] == "{" and word[1].isdigit():
                    j = int(word[1]) - 1
                    words += PHRASES[pattern.mood][kinds[c, i, j]][w.verbs[c, i, j]]
                    places[c, i, j] = len(words)
                    words.append(str(operands[c, i, j]))
                else:
                    words.append(NAMES[w.names[c, i]] if word == "{n}" else word)
        texts.append(words)
    return texts, places


def queries(d: Draw, w: Wording) -> list[list[str]]:
    """The words of every query, those of a context together."""
    asked = np.take_along_axis(w.names, d.chain, axis=1)
    texts = []
    for c, m in np.ndindex(*d.chain.shape):
        slots = {
            "{n}": NAMES[asked[c, m]],
            "{x}": str(d.start[c, m]),
            "{k}": patterns.STEP_WORDS[d.n_steps[c, m] - 1],
        }
        words = [slots.get(word, word) for word in ALL_QUERIES[w.queries[c, m]]]
        texts.append(" ".join(words).split())
    return texts


def problems(
    n: int, *, seed: int, split: str = "any", p: int = P, n_steps: Sequence[int] = (2, 3)
) -> pa.Table:
    """A table of `n` fresh problems; arguments and columns as in `arithmetic.problems`.

    `op1..op3` and `cot` write an operation as one token, `+7`. `template_id` is the pattern of the
    sentence about the person asked for, `query_id` that of the query, `name` the person.
    """
    symbols, rng = Symbols(p), arithmetic.generator(n, seed)
    d = arithmetic.draw_split(n, rng, symbols, split, n_steps)
    return _table(d, wording(_is_test(d), rng), symbols, f"{split}-{seed}")


def twins(
    n: int, *, seed: int, split: str = "any", change: str = "start", p: int = P, n_steps: int = 3
) -> tuple[pa.Table, pa.Table]:
    """Counterfactual pairs as in `arithmetic.twins`, told alike: exactly one number word differs."""
    symbols, rng = Symbols(p), arithmetic.generator(n, seed, arithmetic.slot(change, n_steps))
    first, second = arithmetic.draw_twins(n, rng, symbols, split=split, change=change, n_steps=n_steps)
    w = wording(_is_test(first), rng)
    prefix = f"{split}-{seed}-{change}"
    table = _table(first, w, symbols, prefix)
    return table, arithmetic.as_twin(_table(second, w, symbols, prefix), table)


def _is_test(d: Draw) -> Bool[np.ndarray, " C"]:
    return arithmetic.split_of(d) == "test"


def _table(d: Draw, w: Wording, symbols: Symbols, prefix: str) -> pa.Table:
    texts = zip(contexts(d, w, symbols)[0], queries(d, w), strict=True)
    rows, asked = np.arange(len(d.ops)), d.chain[:, 0]
    return arithmetic.table(
        d,
        symbols,
        prefix,
        [" ".join(context + query) for context, query in texts],
        template_id=w.patterns[rows, asked],
        query_id=w.queries[:, 0],
        name=np.array(NAMES)[w.names[rows, asked]],
    )


__all__ = ["CHANGES", "problems", "twins"]
