"""Which variables are asked about: label columns, over all problems and over those of each condition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts import ActivationStore
from thoughtlens.core import ConfigError, DataError, ThoughtlensError
from thoughtlens.latents import (
    Label,
    load_tokenizer,
    not_told_apart,
    number_columns,
    own_columns,
    read_labels,
    token_texts,
)
from thoughtlens.problems import of_members

SPLITS = ("train", "validation", "test")
N_BINS = 10
"""Bins of numbers that have too many values to be told apart."""
TOKEN = "token"
SIGN = re.compile(r"([^\d\s]+)\s*\d+")


@dataclass(frozen=True, eq=False)
class Rows:
    """Vectors of a place."""

    x: Float[Tensor, "n d_in"]
    problem: Int[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    """Of the store; -1: it is not from there."""


@dataclass(frozen=True, eq=False)
class Question:
    """A variable, over all problems or those of one condition; values with too few problems are others."""

    variable: str
    condition: str
    """Such as n_steps=3; empty: all problems."""
    codes: Int[np.ndarray, " problems_or_rows"]
    """Value of each problem; -1: another value; -2: not asked about."""
    values: list[str]
    of_rows: bool = False
    """The codes are of rows of the store, as those of tokens are, not of problems."""

    @property
    def key(self) -> tuple[str, str]:
        """Variable and condition."""
        return self.variable, self.condition

    def own(self, rows: Rows) -> Int[np.ndarray, " n"]:
        """The code of each row."""
        return self.codes[rows.row if self.of_rows else rows.problem]


@dataclass(frozen=True)
class Wanted:
    """Which columns of a table of problems are asked about."""

    columns: tuple[str, ...] | None = None
    """Unset: all label columns with 2 to `max_values` values."""
    by: tuple[str, ...] | None = None
    """Columns of conditions; unset: `n_steps`, where the problems have it."""
    max_values: int = 100
    min_count: int = 5
    """Problems of a value in each split."""


def questions(problems: pa.Table, wanted: Wanted, *, where: str) -> tuple[list[Question], list[str]]:
    """The questions, and what is to be said of columns that are left out.

    Raises:
        DataError: a split without problems; `where` names the table.
        ConfigError: a column of `wanted` that is not there, or that cannot be asked about.
    """
    split = np.array(problems["split"])
    for missing in set(SPLITS) - set(split.tolist()):
        raise DataError(f"Expected problems of the split {missing} in {where}, found none")
    labels = _labels(problems, wanted.columns, wanted, min_count=wanted.min_count)
    asked, left_out = [], not_told_apart([label for label in labels if label.levels])
    conditions = [("", np.ones(len(split), bool))]
    by = {"n_steps"} & set(problems.column_names) if wanted.by is None else wanted.by
    for one in _labels(problems, tuple(by), wanted, min_count=1):
        conditions += [(f"{one.name}={v}", one.codes == i) for i, v in enumerate(one.levels)]
    least = wanted.min_count
    for label in labels:
        for condition, among in conditions:
            if condition.partition("=")[0] == label.name:
                continue
            codes = np.where(among, label.codes, -1)
            question = _question(label, condition, codes, split, least)
            if question is None and not condition:
                why = why_not(label, problems, least)
                if wanted.columns is not None:
                    raise ConfigError(f"{why}; leave it out of columns")
                left_out.append(why)
                break
            if question is not None:
                asked.append(question)
    return asked, left_out


def _labels(
    problems: pa.Table, names: tuple[str, ...] | None, wanted: Wanted, *, min_count: int
) -> list[Label]:
    """In the order of their columns; numbers of too many values in bins."""
    own = own_columns(problems, names)
    many = set(number_columns(problems, tuple(own), wanted.max_values))
    return [
        label
        for name in own
        for label in read_labels(
            problems,
            (name,),
            max_levels=N_BINS if name in many else wanted.max_values,
            min_count=min_count,
            most=N_BINS if name in many else wanted.max_values,
        )
    ]


def tokens(store: ActivationStore, wanted: Wanted, name: str = TOKEN) -> Question | None:
    """The most frequent tokens of a store of texts as the values of a variable; None where it has none.

    Those that stand in `min_count` documents of each split, `max_values` at most.
    """
    asked = name not in store.problems.column_names and (wanted.columns is None or name in wanted.columns)
    if store.meta.kind != "text" or not asked:
        return None
    token = store.rows["token_id"].to_numpy()
    split = np.array(store.problems["split"].to_pylist())[store.problem_idx]
    ids, code = np.unique(token, return_inverse=True)
    documents = np.array(
        [_documents(code[split == s], store.problem_idx[split == s], len(ids)) for s in SPLITS]
    )
    fit = np.flatnonzero((documents >= wanted.min_count).all(0))
    fit = np.sort(fit[np.argsort(-np.bincount(code)[fit], kind="stable")][: wanted.max_values])
    if len(fit) < 2:
        return None
    number = np.full(len(ids), -1)
    number[fit] = np.arange(len(fit))
    return Question(name, "", number[code], _texts(store, ids[fit]), of_rows=True)


def _documents(code: np.ndarray, problem: np.ndarray, n: int) -> Int[np.ndarray, " n"]:
    """In how many documents each code stands."""
    pairs = np.unique(np.stack([code, problem]), axis=1)
    return np.bincount(pairs[0], minlength=n)


def _texts(store: ActivationStore, ids: Int[np.ndarray, " n"]) -> list[str]:
    """Tokens as text; their ids where the tokenizer is gone."""
    try:
        found = token_texts(load_tokenizer(store.meta.model, store.meta.model_revision), ids)
    except ThoughtlensError:
        return [str(i) for i in ids.tolist()]
    return [found[i] for i in ids.tolist()]


def why_not(label: Label, problems: pa.Table, least: int) -> str:
    """What is wrong with a column that is not asked about."""
    split, there = np.array(problems["split"]), label.codes >= 0
    empty = [s for s in SPLITS if not (there & (split == s)).any()]
    what = f"fewer than two values have {least} problems in each split"
    if label.sets:
        what = f"it holds sets; {of_members(label.name)}"
    elif label.n_values < 2:
        what = "it has one value only" if label.n_values else "it has no single values"
    elif not label.levels:
        what = f"it has {label.n_values:,} values, none in enough problems"
    elif empty:
        what = f"no problem of the split {' or '.join(empty)} has a value of it"
    return f"label {label.name}: {what}"


def _question(
    label: Label, condition: str, codes: np.ndarray, split: np.ndarray, min_count: int
) -> Question | None:
    count = np.array(
        [np.bincount(codes[(codes >= 0) & (split == s)], minlength=len(label.levels)) for s in SPLITS]
    )
    kept = np.flatnonzero((count >= min_count).all(0))
    if len(kept) < 2:
        return None
    number = np.full(len(label.levels) + 1, -1)
    number[kept], number[-1] = np.arange(len(kept)), -2
    return Question(label.name, condition, number[codes], [label.levels[i] for i in kept])


def kinds(asked: Sequence[Question], of: Question) -> Int[np.ndarray, " v"] | None:
    """The kind of each value, where values are known to come in kinds: of their sign (`+3`, `+7`, `*3`), or
    those of another label column, each of whose values holds several of this one; else None.
    """
    signs = [match[1] if (match := SIGN.fullmatch(value)) else None for value in of.values]
    if None not in signs and 1 < len(set(signs)) < len(signs):
        return np.unique(np.array(signs, str), return_inverse=True)[1]
    for other in asked:
        same = other.of_rows == of.of_rows and other.condition == of.condition
        if not same or not 1 < len(other.values) < len(of.values):
            continue
        both = (of.codes >= 0) & (other.codes >= 0)
        pairs = np.unique(np.stack([of.codes[both], other.codes[both]]), axis=1)
        if pairs.shape[1] == len(of.values) and len(np.unique(pairs[1])) > 1:
            return pairs[1]
    return None
