"""Held-out text, put together from a store's own rows as the windows that were extracted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from thoughtlens.acts import ROWS, ActivationStore, stream
from thoughtlens.core import DataError
from thoughtlens.evals.heldout.subject import row_columns

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


def held_out_text(
    store: ActivationStore, split: str, *, drop_outliers: bool, bos: int | None, n_tokens: int, seed: int
) -> list[Window]:
    """About `n_tokens` tokens of random documents of a split, as the windows that were extracted.

    A window of which a token is missing (a special one in the middle) is left out.
    """
    problems = _documents(store, split, n_tokens, seed)
    columns = _columns(store, problems)
    windows = _cut(columns, drop_outliers, bos)
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


def _documents(store: ActivationStore, split: str, n_tokens: int, seed: int) -> list[int]:
    """Lines of the problems table, in random order, until there is enough text."""
    rows = np.bincount(store.problem_idx, minlength=store.problems.num_rows)
    splits = np.array(store.problems["split"].to_pylist(), object)
    candidates = np.flatnonzero((splits == split) & (rows > 1))
    order = np.random.default_rng(seed).permutation(candidates)
    enough = np.searchsorted(np.cumsum(np.minimum(rows[order], DOCUMENT_TOKENS)), n_tokens) + 1
    return order[:enough].tolist()


def _columns(store: ActivationStore, problems: Sequence[int]) -> dict[str, np.ndarray]:
    """The row columns of some problems, in the store's order."""
    chosen = np.isin(store.problem_idx, np.asarray(problems, dtype=np.int64))
    first, parts = 0, []
    names = ["token_id", "position", *(n for n in ("window", "outlier") if n in row_columns(store))]
    for batch in stream(store.root / ROWS, names):
        here = np.flatnonzero(chosen[first : first + len(batch)])
        columns = {n: batch[n].to_numpy(zero_copy_only=False)[here] for n in names}
        parts.append({"row": here + first, **columns})
        first += len(batch)
    found = {n: np.concatenate([p[n] for p in parts]) for n in ("row", *names)}
    return {"problem": store.problem_idx[found["row"]], **found}


def _cut(columns: dict[str, np.ndarray], drop_outliers: bool, bos: int | None) -> list[Window]:
    """Rows that follow each other in one window, with the begin of sequence put back."""
    row, problem, position = columns["row"], columns["problem"], columns["position"]
    window = columns.get("window", np.zeros(len(row), dtype=np.int64))
    new = (np.diff(problem) != 0) | (np.diff(window) != 0) | (np.diff(position) <= 0) | (np.diff(row) != 1)
    windows = []
    for part in np.split(np.arange(len(row)), np.flatnonzero(new) + 1):
        first = int(position[part[0]]) if len(part) else 0
        head = [] if first == 0 else [bos]
        if len(part) < 2 or first > 1 or None in head or position[part[-1]] - first != len(part) - 1:
            continue
        kept = np.ones(len(part), dtype=bool)
        if drop_outliers:
            kept = ~columns["outlier"][part]
        windows.append(
            Window(
                problem=int(problem[part[0]]),
                tokens=np.r_[np.array(head, dtype=np.int64), columns["token_id"][part]],
                row=np.r_[np.full(len(head), -1), row[part]],
                kept=np.r_[np.zeros(len(head), dtype=bool), kept],
            )
        )
    return windows


def pack(windows: Sequence[Window]) -> list[list[Window]]:
    """Batches of windows, which come shortest first, of at most `BATCH_TOKENS` with padding."""
    if not windows:
        raise DataError("Expected held-out text to splice into, found no whole window of at least two tokens")
    batches: list[list[Window]] = [[]]
    for window in windows:
        if batches[-1] and (len(batches[-1]) + 1) * len(window.tokens) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(window)
    return batches
