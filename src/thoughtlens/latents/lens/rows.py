"""Which states are read, and what each of them could have meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from thoughtlens.acts import ActivationStore
from thoughtlens.core import ConfigError, DataError
from thoughtlens.latents.codes.readout import Readout

VALUE = re.compile(r"v\d+")
KNOWN = re.compile(r"v\d+|op\d+|answer")
INTERMEDIATE, NEXT = "intermediate", "next_token"


@dataclass(frozen=True, eq=False)
class CellRows:
    """The rows of one hook and thought; in a store of text, of one hook."""

    hook_name: str
    thought_idx: int | None
    rows: Int[np.ndarray, " n"]
    line: Int[np.ndarray, " n"]
    """Line of each row in the table of problems."""

    def __str__(self) -> str:
        return self.hook_name if self.thought_idx is None else f"{self.hook_name}, thought {self.thought_idx}"


@dataclass(frozen=True, eq=False)
class Target:
    """Words that a reading is compared with: any of y[i] counts as right; -1 is none."""

    name: str
    y: Int[np.ndarray, "n options"]

    @property
    def known(self) -> Bool[np.ndarray, " n"]:
        """Rows that have a right word."""
        return self.y.max(1) >= 0


def cell_rows(
    store: ActivationStore, split: str, n_problems: int, seed: int, max_rows: int | None = None
) -> list[CellRows]:
    """Every hook and thought on the rows of the same randomly chosen problems, in the store's order.

    Args:
        store: Of thoughts or text.
        split: Whose problems.
        n_problems: At most.
        seed: Of the choice.
        max_rows: Text: whole documents are taken until they have this many rows; the last one is cut.

    Raises:
        DataError: no rows in the split.
    """
    view = store.view(store.hook_names[:1], split=split)
    rows = view.rows_of(np.arange(view.n_rows))
    line = store.problem_idx[rows]
    lines, counts = np.unique(line, return_counts=True)
    order = np.random.default_rng((seed, 41)).permutation(len(lines))[:n_problems]
    if max_rows is not None and store.meta.kind == "text":
        order = order[: int(np.searchsorted(np.cumsum(counts[order]), max_rows)) + 1]
    chosen = np.isin(line, lines[order])
    rows, line = rows[chosen], line[chosen]
    if store.thought_idx is None:
        return [CellRows(hook, None, rows[:max_rows], line[:max_rows]) for hook in store.hook_names]
    thought = store.thought_idx[rows]
    return [
        CellRows(hook, t, rows[thought == t], line[thought == t])
        for hook in store.hook_names
        for t in store.thoughts
    ]


def targets(
    store: ActivationStore, cell: CellRows, readout: Readout, columns: Sequence[str] | None
) -> list[Target]:
    """What the readings of a cell are compared with.

    Of thoughts: each label column, and `intermediate`, any of a problem's values but the last. Of text: the
    token that follows in the same window.

    Raises:
        ConfigError: a column that the problems do not have, or for whose values the model has no tokens.
    """
    if store.meta.kind == "text":
        return [Target(NEXT, _next_tokens(store, cell)[:, None])]
    table = store.problems
    names = [c for c in table.column_names if KNOWN.fullmatch(c)] if columns is None else list(columns)
    if missing := [name for name in names if name not in table.column_names]:
        raise ConfigError(
            f"columns: the problems of {store.root} have no {missing[0]!r}; they have "
            f"{', '.join(table.column_names)}"
        )
    found = [Target(name, word_numbers(table[name], readout)[cell.line][:, None]) for name in names]
    if columns is not None and (silent := [t.name for t in found if not t.known.any()]):
        raise ConfigError(f"columns: the model has no single token for any value of {silent[0]!r}")
    values = sorted((t for t in found if VALUE.fullmatch(t.name)), key=lambda t: int(t.name[1:]))
    if len(values) > 1:
        found.append(Target(INTERMEDIATE, _intermediate(table, values, cell.line)))
    return [t for t in found if t.known.sum() > 1]


def group_numbers(store: ActivationStore) -> Int[np.ndarray, " problems"]:
    """The group of every problem: problems of one are not independent."""
    return np.unique(np.array(store.problems["group_id"].to_pylist(), str), return_inverse=True)[1]


def word_numbers(column: pa.ChunkedArray, readout: Readout) -> Int[np.ndarray, " n"]:
    """The word of each value, as the model's tokens read; -1 for null and where no single token reads so."""
    texts = [_text(value) for value in column.to_pylist()]
    return np.array([-1 if text is None else readout.words.get(text, -1) for text in texts])


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip() or None


def _intermediate(table: pa.Table, values: list[Target], line: np.ndarray) -> Int[np.ndarray, "n options"]:
    """Each problem's values without its last one, which is the answer."""
    there = np.column_stack([table[t.name].is_valid().to_numpy()[line] for t in values])
    last = there.shape[1] - 1 - there[:, ::-1].argmax(1)
    before = np.arange(there.shape[1]) < last[:, None]
    return np.where(before & there, np.column_stack([t.y[:, 0] for t in values]), -1)


def _next_tokens(store: ActivationStore, cell: CellRows) -> Int[np.ndarray, " n"]:
    tokens, position = (store.rows[name].to_numpy() for name in ("token_id", "position"))
    after = np.minimum(cell.rows + 1, store.n_rows - 1)
    same = (store.problem_idx[after] == cell.line) & (position[after] == position[cell.rows] + 1)
    if not same.any():
        raise DataError(f"No row of {store.root} is followed by the next token of its text")
    return np.where(same, tokens[after], -1)
