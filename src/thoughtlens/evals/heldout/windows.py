"""Held-out text as the windows that were extracted, cut again from the texts or put together from rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from thoughtlens.acts import ROWS, ActivationStore, cutter_of, made_with, says_how, stream
from thoughtlens.core import DataError
from thoughtlens.evals.heldout.subject import row_columns
from thoughtlens.models import LanguageModel
from thoughtlens.problems import bos_id, token_ids

BATCH_TOKENS = 1024
DOCUMENT_TOKENS = 512
"""Tokens that one document counts for when documents are chosen: a few long ones say less than many."""


@dataclass(frozen=True, eq=False)
class Window:
    """Tokens of a document that the model reads at once."""

    problem: int
    tokens: Int[np.ndarray, " seq"]
    row: Int[np.ndarray, " seq"]
    """Row of the store; -1 where there is none (begin of sequence)."""
    kept: Bool[np.ndarray, " seq"]
    """Positions to replace."""

    @property
    def n_uncovered(self) -> int:
        """Tokens that are read and never replaced: without a row, or flagged."""
        return int((~self.kept).sum())


class _Rows(NamedTuple):
    """Columns of the rows of some documents, in the store's order."""

    row: Int[np.ndarray, " n"]
    problem: Int[np.ndarray, " n"]
    token_id: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    outlier: Bool[np.ndarray, " n"]
    window: Int[np.ndarray, " n"] | None = None


def held_out_text(
    store: ActivationStore,
    split: str,
    lm: LanguageModel,
    *,
    drop_outliers: bool,
    n_tokens: int,
    seed: int,
) -> list[Window]:
    """About `n_tokens` tokens of random documents of a split, as the windows that were extracted.

    Where the store says how its texts were cut, they are cut so again, so that tokens without a row (special
    ones, roles of a chat) are read all the same. Else windows are put together from rows, and one of which a
    token is missing in the middle is left out.

    Raises:
        DataError: no window has two rows that follow each other.
    """
    problems = _documents(store, split, n_tokens, seed)
    read = _read(store, problems)
    windows = _again(store, lm, read, drop_outliers)
    if windows is None:
        bos = bos_id(lm.tokenizer, made_with(store).bos) if says_how(store) else lm.tokenizer.bos_token_id
        windows = _cut(read, drop_outliers, bos if isinstance(bos, int) else None)
    windows = [w for w in windows if ((w.row[1:] >= 0) & (w.row[:-1] >= 0)).any()]
    if not windows:
        raise DataError(_nothing(store, split, len(problems)))
    turn = {problem: place for place, problem in enumerate(problems)}
    number: dict[int, int] = {}
    ranked = []
    for window in windows:
        number[window.problem] = number.get(window.problem, -1) + 1
        ranked.append((number[window.problem], turn[window.problem], window))
    chosen, total = [], 0
    for *_, window in sorted(ranked, key=lambda r: r[:2]):
        if total >= n_tokens:
            break
        chosen.append(window)
        total += int((window.row >= 0).sum())
    return sorted(chosen, key=lambda w: len(w.tokens))


def _nothing(store: ActivationStore, split: str, n_documents: int) -> str:
    """Why there is no text to splice into, and what to do."""
    if not n_documents:
        found = store.describe(split, None)
        return f"No document of {store.root} has two rows for {found}; choose another split, or ce_tokens=0"
    return (
        f"None of {n_documents} documents of split {split!r} in {store.root} has a window of which two rows "
        f"follow each other: its special tokens, as the roles of a chat, were left out of the middle. "
        f"Extract with extract.drop_special=false, or go without cross-entropy: ce_tokens=0"
    )


def _again(
    store: ActivationStore, lm: LanguageModel, read: _Rows, drop_outliers: bool
) -> list[Window] | None:
    """The windows of the stored texts, in the rows' order; None where the rows are not theirs."""
    if not says_how(store) or "question" not in store.problems.column_names or read.window is None:
        return None
    cutter = cutter_of(lm, made_with(store))
    lines, of = np.unique(read.problem, return_inverse=True)
    texts = store.problems["question"].take(pa.array(lines)).to_pylist()
    cut = [cutter.windows("", ids) for ids in token_ids(lm.tokenizer, texts, cutter.bos)]
    key = of * (int(read.window.max(initial=0)) + 1) + read.window
    order = np.argsort(key, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(key[order])) + 1) if len(order) else []
    windows = []
    for rows in sorted(parts, key=lambda rows: rows[0]):
        place, at = read.position[rows], rows[0]
        tokens = np.concatenate([w.tokens for w in cut[of[at]][read.window[at] :][:1]] or [place[:0]])
        end = int(place.max()) + 1
        if end > len(tokens) or (tokens[place] != read.token_id[rows]).any():
            return None
        row, kept = np.full(end, -1), np.zeros(end, bool)
        row[place] = read.row[rows]
        kept[place] = ~read.outlier[rows] if drop_outliers else True
        windows.append(Window(int(read.problem[at]), tokens[:end].astype(np.int64), row, kept))
    return windows


def _documents(store: ActivationStore, split: str, n_tokens: int, seed: int) -> list[int]:
    """Lines of the problems table, in random order, until there is enough text."""
    rows = np.bincount(store.problem_idx, minlength=store.problems.num_rows)
    splits = np.array(store.problems["split"].to_pylist(), object)
    candidates = np.flatnonzero((splits == split) & (rows > 1))
    order = np.random.default_rng(seed).permutation(candidates)
    enough = np.searchsorted(np.cumsum(np.minimum(rows[order], DOCUMENT_TOKENS)), n_tokens) + 1
    return order[:enough].tolist()


def _read(store: ActivationStore, problems: Sequence[int]) -> _Rows:
    chosen = np.isin(store.problem_idx, np.asarray(problems, dtype=np.int64))
    first, parts = 0, []
    names = ["token_id", "position", *(n for n in ("window", "outlier") if n in row_columns(store))]
    for batch in stream(store.root / ROWS, names):
        here = np.flatnonzero(chosen[first : first + len(batch)])
        parts.append([here + first, *(batch[n].to_numpy(zero_copy_only=False)[here] for n in names)])
        first += len(batch)
    row, *columns = map(np.concatenate, zip(*parts, strict=True))
    found = {"outlier": np.zeros(len(row), bool), **dict(zip(names, columns, strict=True))}
    return _Rows(row=row, problem=store.problem_idx[row], **found)


def _cut(read: _Rows, drop_outliers: bool, bos: int | None) -> list[Window]:
    """Rows that follow each other in one window, with the begin of sequence put back."""
    row, problem, position = read.row, read.problem, read.position
    window = np.zeros(len(row), np.int64) if read.window is None else read.window
    new = (np.diff(problem) != 0) | (np.diff(window) != 0) | (np.diff(position) <= 0) | (np.diff(row) != 1)
    windows = []
    for part in np.split(np.arange(len(row)), np.flatnonzero(new) + 1):
        first = int(position[part[0]]) if len(part) else 0
        head = [] if first == 0 else [bos]
        if len(part) < 2 or first > 1 or None in head or position[part[-1]] - first != len(part) - 1:
            continue
        kept = ~(read.outlier[part] & drop_outliers)
        windows.append(
            Window(
                problem=int(problem[part[0]]),
                tokens=np.r_[np.array(head, dtype=np.int64), read.token_id[part]],
                row=np.r_[np.full(len(head), -1), row[part]],
                kept=np.r_[np.zeros(len(head), dtype=bool), kept],
            )
        )
    return windows


def pack(windows: Sequence[Window]) -> list[list[Window]]:
    """Batches of windows, which come shortest first, of at most `BATCH_TOKENS` with padding."""
    batches: list[list[Window]] = [[]]
    for window in windows:
        if batches[-1] and (len(batches[-1]) + 1) * len(window.tokens) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(window)
    return batches
