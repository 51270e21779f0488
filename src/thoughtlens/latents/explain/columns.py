"""What logistic explanations and rules may speak of: one table of columns for all latents.

Binary columns are statements that hold for a vector or do not: a token at some distance before, a token
within reach, the position, the hook, the thought, a label of the problem. Number columns are sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from thoughtlens.latents.codes.labels import encode_numbers, number_columns, read_labels
from thoughtlens.latents.codes.tokens import quoted
from thoughtlens.latents.explain.corpus import Corpus, Part
from thoughtlens.models import parse_number

MIN_COUNT = 5
"""Occurrences among the fitting tokens that a token column needs, and problems that a label's value does."""
MOST_LEVELS = 256
"""Values of a label column that are told apart at most."""
POSITIONS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of one part; `binary` by column as well, for picking a few."""

    binary: sp.csr_array
    by_column: sp.csc_array
    numbers: Float[np.ndarray, "n k"]


class Columns:
    """Columns fitted on the first part: which tokens, labels and levels there are.

    Attributes:
        names: What each binary column states.
        number_names: What each number column measures.
    """

    def __init__(self, corpus: Corpus, names: dict[int, str]) -> None:
        self.corpus, cfg = corpus, corpus.cfg
        self.text = corpus.member.text
        self.token_names = names
        self.digits = {i: text.strip() for i, text in names.items() if text.strip().isdigit()}
        numbers = [parse_number(word) for word in corpus.vocabulary or ()]
        self.sizes = np.array([np.nan if v is None else abs(v) for v in numbers])
        self.kinds = frequent(corpus.fit)
        self.names: list[str] = []
        self.number_names: list[str] = []
        problems = corpus.member.store.problems
        self.labels = read_labels(
            problems, cfg.labels, max_levels=cfg.max_levels, min_count=MIN_COUNT, most=MOST_LEVELS
        )
        self.label_numbers = _number_labels(problems, cfg.labels)

    @cached_property
    def tables(self) -> list[Table]:
        """The columns of each part."""
        return [self.table(part) for part in self.corpus.parts]

    def table(self, part: Part) -> Table:
        """The columns of a part."""
        token_blocks, token_names = self._tokens(part)
        blocks, names = self._levels(part)
        binary = sp.csr_array(sp.hstack([*token_blocks, *blocks], format="csr", dtype=np.float32))
        self.names = token_names + names
        return Table(binary, sp.csc_array(binary), self._numbers(part))

    def _tokens(self, part: Part) -> tuple[list[sp.csr_array], list[str]]:
        cfg, tokens = self.corpus.cfg, part.tokens
        shown = [quoted(self.token_names[i]) for i in self.kinds.tolist()]
        if part.where is None:
            has = incidence(part.tokens.stretch, code_of(self.kinds, tokens.ids), part.n_units, len(shown))
            return [has[part.unit]], [f"the question has {name}" for name in shown]
        n, blocks, names = len(tokens), [], []
        every = np.arange(n)
        for distance in range(cfg.window + 1):
            blocks.append(incidence(every, code_of(self.kinds, tokens.before(distance)), n, len(shown)))
            at = "the token is" if distance == 0 else f"{distance} before is"
            names += [f"{at} {name}" for name in shown]
        if cfg.near:
            codes = [code_of(self.kinds, tokens.before(d)) for d in range(1, cfg.near + 1)]
            blocks.append(incidence(np.tile(every, cfg.near), np.concatenate(codes), n, len(shown)))
            names += [f"the {cfg.near} tokens before have {name}" for name in shown]
        return [block[part.where] for block in blocks], names

    def _levels(self, part: Part) -> tuple[list[sp.csr_array], list[str]]:
        blocks, names = [], []
        cells, every = self.corpus.cells, np.arange(part.n)
        hooks = list(dict.fromkeys(hook for hook, _ in cells))
        thoughts = [t for t in dict.fromkeys(t for _, t in cells) if t is not None]
        if len(hooks) > 1:
            own = np.array([hooks.index(hook) for hook, _ in cells])
            blocks.append(incidence(every, own[part.cell], part.n, len(hooks)))
            names += [f"the hook is {hook}" for hook in hooks]
        if len(thoughts) > 1:
            own = np.array([thoughts.index(t) for _, t in cells if t is not None])
            blocks.append(incidence(every, own[part.cell], part.n, len(thoughts)))
            names += [f"the thought is {t}" for t in thoughts]
        if self.text:
            position = self.corpus.member.rows.columns.position[part.place]
            blocks.append(incidence(every, position_bins(position), part.n, len(POSITIONS)))
            names += [f"the position is {name}" for name in position_names()]
        for label in self.labels:
            if label.levels:
                own = label.codes[part.line][part.unit]
                blocks.append(incidence(every, own, part.n, len(label.levels)))
                names += [f"{label.name} is {level}" for level in label.levels]
        return blocks, names

    def _numbers(self, part: Part) -> Float[np.ndarray, "n k"]:
        columns: dict[str, np.ndarray] = {}
        if self.text:
            columns["the position"] = self.corpus.member.rows.columns.position[part.place]
            if part.where is not None:
                columns["the number of digits up to here"] = self._digit_runs(part)[part.where]
        else:
            size = self.sizes[part.tokens.ids]
            largest, known = np.zeros(part.n_units), ~np.isnan(size)
            np.maximum.at(largest, part.tokens.stretch[known], size[known])
            count = np.bincount(part.tokens.stretch, known, minlength=part.n_units)
            columns["the largest number of the question"] = largest[part.unit]
            columns["the count of numbers in the question"] = count[part.unit]
        for name, values in self.label_numbers.items():
            columns[name] = values[part.line][part.unit]
        self.number_names = list(columns)
        return np.stack([v.astype(np.float32) for v in columns.values()], 1)

    def _digit_runs(self, part: Part) -> Int[np.ndarray, " tokens"]:
        """Digits of the number that a token ends, 0 where it is none: the number's size."""
        tokens = part.tokens
        kinds, code = np.unique(tokens.ids, return_inverse=True)
        own = np.array([len(self.digits.get(i, "")) for i in kinds.tolist()])[code]
        total = np.cumsum(own)
        here = np.arange(len(own))
        last_break = np.maximum.accumulate(np.where(own == 0, here, -1))
        start = np.minimum(np.maximum(last_break + 1, tokens.first), here)
        return np.where(own > 0, total - total[start] + own[start], 0)


def frequent(part: Part) -> Int[np.ndarray, " kinds"]:
    """The tokens that occur often enough in a part to have a column, ascending."""
    ids, count = part.tokens.counts()
    return np.sort(ids[count >= MIN_COUNT])


def code_of(kinds: Int[np.ndarray, " kinds"], ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Which of the `kinds` each token is; -1 for none of them."""
    at = np.minimum(np.searchsorted(kinds, ids), max(len(kinds) - 1, 0))
    return np.where(kinds[at] == ids, at, -1) if len(kinds) else np.full(len(ids), -1)


def position_bins(position: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Which of `position_names` each position is in."""
    return np.searchsorted(POSITIONS, position, side="right") - 1


def position_names() -> list[str]:
    """The bins of positions, in words."""
    pairs = pairwise(POSITIONS)
    names = [str(low) if low == end - 1 else f"{low} to {end - 1}" for low, end in pairs]
    return [*names, f"{POSITIONS[-1]} or more"]


def incidence(row: np.ndarray, column: np.ndarray, n: int, k: int) -> sp.csr_array:
    """[n, k] with 1 at every (row, column); a column of -1 is left out."""
    known: Bool[np.ndarray, " entries"] = column >= 0
    one = np.ones(int(known.sum()), np.float32)
    table = sp.csr_array(sp.coo_array((one, (row[known], column[known])), shape=(n, k)))
    table.data[:] = 1.0
    return table


def _number_labels(problems: pa.Table, wanted: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    """Label columns of numbers, with the median where one is missing."""
    found = {}
    for name in number_columns(problems, wanted, 0):
        values = encode_numbers(problems[name]).copy()
        known = values[np.isfinite(values)]
        if len(known):
            values[~np.isfinite(values)] = np.median(known)
            found[name] = values
    return found
