"""Token sequences as arrays, and which other tokens stand where a token stands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int


class Tokens:
    """Sequences of tokens, one after the other.

    Args:
        ids: Every token.
        stretch: The number of the sequence (a piece of text that the model saw at once, or a question) of
            every token; contiguous and ascending.
    """

    def __init__(self, ids: Int[np.ndarray, " n"], stretch: Int[np.ndarray, " n"]) -> None:
        self.ids, self.stretch = ids, stretch
        self.first: Int[np.ndarray, " n"] = np.searchsorted(stretch, stretch, side="left")
        """Where the sequence of each token begins."""
        self.end: Int[np.ndarray, " n"] = np.searchsorted(stretch, stretch, side="right")
        """One past its last token."""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _by_id(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.ids, kind="stable")
        return order, self.ids[order]

    def positions(self, ids: Sequence[int]) -> Int[np.ndarray, " found"]:
        """Where any of these tokens stands, ascending; everywhere if there are none."""
        if not len(ids):
            return np.arange(len(self))
        order, sorted_ids = self._by_id
        low, high = np.searchsorted(sorted_ids, ids), np.searchsorted(sorted_ids, ids, side="right")
        return np.sort(np.concatenate([order[a:b] for a, b in zip(low, high, strict=True)]))

    def before(self, distance: int) -> Int[np.ndarray, " n"]:
        """The token `distance` before each one, below 0 after it; -1 outside of the sequence."""
        at = np.arange(len(self)) - distance
        inside = (at >= self.first) & (at < self.end)
        return np.where(inside, self.ids[np.clip(at, 0, max(len(self) - 1, 0))], -1)

    def context(self, at: int, length: int) -> Int[np.ndarray, " seq"]:
        """The `length` tokens that end with the one at `at`, or as many as its sequence has."""
        return self.ids[max(at + 1 - length, self.first[at]) : at + 1]

    def counts(self) -> tuple[Int[np.ndarray, " kinds"], Int[np.ndarray, " kinds"]]:
        """Different tokens and how often each occurs, the most frequent first."""
        ids, count = np.unique(self.ids, return_counts=True)
        order = np.lexsort((ids, -count))
        return ids[order], count[order]


class Neighbours:
    """Tokens that stand between the same tokens (distributional similarity; Harris 1954).

    A token is described by the tokens right before and right after it, each count's square root; similarity
    is the cosine. Nothing but the sequences is needed: no other model, no embedding.

    Args:
        tokens: Sequences to learn from.
        names: What each token reads as; those that differ only in case or spaces come first.
    """

    def __init__(self, tokens: Tokens, names: dict[int, str]) -> None:
        self.ids, code = np.unique(tokens.ids, return_inverse=True)
        after = np.flatnonzero(np.diff(tokens.stretch) == 0)
        n = len(self.ids)
        left = sp.coo_array((np.ones(len(after)), (code[after + 1], code[after])), shape=(n, n))
        right = sp.coo_array((np.ones(len(after)), (code[after], code[after + 1])), shape=(n, n))
        table = sp.csr_array(sp.hstack([left, right]))
        table.sum_duplicates()
        table.data = np.sqrt(table.data)
        norm = np.maximum(np.sqrt(table.multiply(table).sum(1)), 1e-12)
        self._table = sp.csr_array(sp.diags_array(1 / norm) @ table)
        self._plain = np.array([names[i].strip().lower() for i in self.ids.tolist()], object)

    def of(self, token: int, n: int) -> list[int]:
        """The `n` most similar other tokens; ties go to the lowest number."""
        own = int(np.searchsorted(self.ids, token))
        if own >= len(self.ids) or self.ids[own] != token or n == 0:
            return []
        similar = (self._table @ self._table[[own]].T).toarray()[:, 0]
        similar[self._plain == self._plain[own]] += 2.0
        similar[own] = -1.0
        order = np.lexsort((self.ids, -similar))[:n]
        return [int(self.ids[i]) for i in order if similar[i] > 0]
