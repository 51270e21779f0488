"""The vectors that explanations are made from: problems to fit on, to choose by, and to score on.

A *vector* is a row of the store at one hook; vector v of a part is hook `v % n_hooks` of its place
`v // n_hooks`. For text a place is a token. For thoughts it is a pass of the model, and the tokens that an
explanation may speak of are the words of the problem's question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from thoughtlens.acts import ActivationStore
from thoughtlens.core import DataError
from thoughtlens.latents.codes.codes import Codes
from thoughtlens.latents.codes.examples import spread
from thoughtlens.latents.codes.labels import encode_groups
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.explain.config import LEAST_GROUPS, ExplainConfig
from thoughtlens.latents.explain.tokens import Tokens
from thoughtlens.models import Place
from thoughtlens.problems import BEGIN

PARTS = ("train", "validation", "test")
LEAST_PROBLEMS = 10
"""Problems that a store's own split must have to serve as a part."""


@dataclass(frozen=True, eq=False)
class Part:
    """Vectors of whole problems, with the tokens that an explanation may look at.

    Attributes:
        split: Which problems these are, in words.
        acts: Activations by latent.
        unit: Problem of each vector, counted from 0 within the part; ascending.
        cluster: Group of each problem: problems that share one are not independent.
        line: Line of each problem in the store's problems.
        place: Place in the member's order of rows of each vector.
        cell: Which (hook, thought) each vector is of, as an index into the member's cells.
        tokens: Of text, the token of every place; of thoughts, the words of every problem's question.
        where: Of text, the token that each vector is on; None for thoughts, where a problem's words count
            for all of its vectors.
        n_cells: Number of (hook, thought) pairs.
    """

    split: str
    acts: sp.csc_array
    unit: Int[np.ndarray, " n"]
    cluster: Int[np.ndarray, " units"]
    line: Int[np.ndarray, " units"]
    place: Int[np.ndarray, " n"]
    cell: Int[np.ndarray, " n"]
    tokens: Tokens
    where: Int[np.ndarray, " n"] | None
    n_cells: int = 1

    @property
    def n(self) -> int:
        """Vectors."""
        return len(self.unit)

    @property
    def n_units(self) -> int:
        """Problems."""
        return len(self.line)

    def column(self, latent: int) -> Float[np.ndarray, " n"]:
        """Size of the activation of one latent on every vector: where it fires, above 0 or below."""
        found = np.zeros(self.n, np.float32)
        low, high = self.acts.indptr[latent], self.acts.indptr[latent + 1]
        found[self.acts.indices[low:high]] = np.abs(self.acts.data[low:high])
        return found

    def fires(self, latent: int) -> Int[np.ndarray, " fires"]:
        """The vectors on which a latent fires, ascending."""
        return np.sort(self.acts.indices[self.acts.indptr[latent] : self.acts.indptr[latent + 1]])

    def firing_units(self) -> Int[np.ndarray, " d_sae"]:
        """In how many problems each latent fires."""
        vectors, latents = self.acts.nonzero()
        pairs = np.unique(latents.astype(np.int64) * self.n_units + self.unit[vectors])
        return np.bincount(pairs // self.n_units, minlength=len(self.acts.indptr) - 1)

    def at_tokens(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " tokens"]:
        """Largest of the vectors' values at each token: of those on it, or those of its problem."""
        if self.where is None:
            return self._largest(values, self.unit, self.n_units)[self.tokens.stretch]
        return self._largest(values, self.where, len(self.tokens.ids))

    def at_vectors(self, values: Float[np.ndarray, " tokens"]) -> Float[np.ndarray, " n"]:
        """The value of the token that each vector is on, or the largest in its problem."""
        if self.where is not None:
            return values[self.where]
        return self._largest(values, self.tokens.stretch, self.n_units)[self.unit]

    @staticmethod
    def _largest(values: np.ndarray, index: np.ndarray, n: int) -> np.ndarray:
        """Largest value with each index, 0 where there is none; values are not negative."""
        found = np.zeros(n, np.float32)
        np.maximum.at(found, index, values)
        return found


class Corpus:
    """The three parts of one member's vectors.

    Raises:
        DataError: too few problems to divide.
    """

    def __init__(self, member: Member, codes: Codes | None, cfg: ExplainConfig) -> None:
        self.member, self.cfg = member, cfg
        self.n_hooks = len(member.hook_names)
        self.vocabulary, self._words = _vocabulary(member)
        sizes = (cfg.fit_vectors, cfg.validation_vectors, cfg.test_vectors)
        rng = np.random.default_rng(cfg.seed)
        names, units = self._divide(rng)
        parts = [
            self._part(name, _draw(own, self._vectors_of(own), size, rng), codes)
            for name, own, size in zip(names, units, sizes, strict=True)
        ]
        self.parts = self.fit, self.validation, self.test = parts

    def rng(self, latent: int, purpose: int) -> np.random.Generator:
        """A generator for one purpose with one latent, the same every time."""
        return np.random.default_rng([self.cfg.seed, latent, purpose])

    @cached_property
    def cells(self) -> list[Place]:
        """Hooks and thoughts, hook-major; of text without thought."""
        thoughts = self.member.thoughts if not self.member.text else None
        return [Place(hook, t) for hook in self.member.hook_names for t in (thoughts or [None])]

    def eligible(self, parts: Sequence[Part] | None = None) -> Bool[np.ndarray, " d_sae"]:
        """Latents that fire in enough problems of every part; of other codes, where `parts` have these."""
        cfg, (fit, *held) = self.cfg, parts or self.parts
        enough = (fit.firing_units() >= cfg.min_units) & (np.diff(fit.acts.indptr) < fit.n)
        for part in held:
            enough &= part.firing_units() >= cfg.min_held_units
        return enough

    def thinking(self, part: Part) -> Bool[np.ndarray, " n"]:
        """Which vectors are outside of begin-of-thought."""
        return np.array([place.thought != BEGIN for place in self.cells])[part.cell]

    def _divide(self, rng: np.random.Generator) -> tuple[list[str], list[np.ndarray]]:
        """Units of the three parts: the store's own splits, or groups of problems 3 : 1 : 1."""
        problems, lines = self.member.store.problems, self.member.rows.problem
        split = np.array(problems["split"].to_pylist(), object)[lines]
        if self.cfg.split is None:
            own = [np.flatnonzero(split == name) for name in PARTS]
            if min(map(len, own)) >= LEAST_PROBLEMS:
                return list(PARTS), own
        group = encode_groups(problems)[lines]
        names = np.unique(group)
        if len(names) < LEAST_GROUPS:
            raise DataError(
                f"Explanations need at least {LEAST_GROUPS} independent problems to fit, choose and "
                f"score on different ones, got {len(names)} in {self.member.store.root}"
            )
        fifth = np.empty(group.max() + 1, np.int64)
        fifth[rng.permutation(names)] = np.arange(len(names)) * 5 // len(names)
        part = np.maximum(fifth[group] - 2, 0)
        of = self.cfg.split or "all"
        shares = ("three fifths", "a fourth fifth", "a last fifth")
        return [f"{share} of {of}" for share in shares], [np.flatnonzero(part == i) for i in range(3)]

    def _vectors_of(self, units: np.ndarray) -> np.ndarray:
        first = self.member.rows.first
        return (first[units + 1] - first[units]) * self.n_hooks

    def _part(self, name: str, units: np.ndarray, codes: Codes | None) -> Part:
        rows, n_hooks = self.member.rows, self.n_hooks
        places = spread(rows.first[units], rows.first[units + 1])
        place = np.repeat(places, n_hooks)
        lengths = rows.first[units + 1] - rows.first[units]
        unit = np.repeat(np.arange(len(units)), lengths * n_hooks)
        if self.member.text:
            tokens = Tokens(rows.columns.token_id[places].astype(np.int64), rows.columns.stretch[places])
            where = np.arange(len(place)) // n_hooks
        else:
            words = [self._words[line] for line in rows.problem[units].tolist()]
            tokens = Tokens(np.concatenate(words), np.repeat(np.arange(len(words)), [len(w) for w in words]))
            where = None
        acts = self._codes(codes, places)
        groups = encode_groups(self.member.store.problems)[rows.problem[units]]
        return Part(
            name, acts, unit, groups, rows.problem[units], place, self._cell(places), tokens, where,
            len(self.cells),
        )  # fmt: skip

    def _cell(self, places: np.ndarray) -> np.ndarray:
        hook = np.tile(np.arange(self.n_hooks), len(places))
        if self.member.text or not self.member.thoughts:
            return hook
        thoughts = np.asarray(self.member.thoughts)
        at = np.searchsorted(thoughts, self.member.rows.columns.thought_idx[places])
        return hook * len(thoughts) + np.repeat(at, self.n_hooks)

    def _codes(self, codes: Codes | None, places: np.ndarray) -> sp.csc_array:
        if codes is None or not np.array_equal(codes.store_row, self.member.rows.row):
            return sp.csc_array(self.member.codes_at(places))
        vectors = (places[:, None] * self.n_hooks + np.arange(self.n_hooks)).ravel()
        return sp.csc_array(codes.csr()[vectors].astype(np.float32))


def _vocabulary(member: Member) -> tuple[list[str] | None, dict[int, np.ndarray]]:
    """Of thoughts: all words of the questions, sorted, and each problem's words as numbers; None for text.

    Imported thoughts may have no questions at all: then there are no words.
    """
    return (None, {}) if member.text else _words_of(member.store, tuple(member.rows.problem.tolist()))


@lru_cache(maxsize=1)
def _words_of(store: ActivationStore, lines: tuple[int, ...]) -> tuple[list[str], dict[int, np.ndarray]]:
    """Of these lines of the store's problems, the same for all members that have rows of them."""
    table = store.problems
    known = table["question"] if "question" in table.column_names else pa.nulls(len(table))
    words = [str(question or "").split() for question in known.take(pa.array(lines)).to_pylist()]
    if any(words) and (empty := [i for i, one in zip(lines, words, strict=True) if not one]):
        raise DataError(f"Expected a question for every problem, problem {empty[0]} has none")
    vocabulary = sorted({word for one in words for word in one})
    number = {word: i for i, word in enumerate(vocabulary)}
    return vocabulary, {
        line: np.array([number[word] for word in one], np.int64)
        for line, one in zip(lines, words, strict=True)
    }


def _draw(units: np.ndarray, sizes: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Units in ascending order whose vectors together stay within `limit`; one at least."""
    order = rng.permutation(len(units))
    n = int(np.searchsorted(np.cumsum(sizes[order]), limit, side="right"))
    return np.sort(units[order[: max(n, 1)]])
