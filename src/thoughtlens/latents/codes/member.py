"""One SAE on the rows of a store that it was trained for, read problem by problem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Int, Shaped

from thoughtlens.acts import ActivationStore, View
from thoughtlens.core import MismatchError
from thoughtlens.sae import SAE, Baseline, Crosscoder, Joined, JoinedView, Selection, open_source

EMPTY = np.empty(0, np.int64)


class RowColumns(NamedTuple):
    """Columns of the rows; empty where the store has none of that name."""

    position: np.ndarray = EMPTY
    token_id: np.ndarray = EMPTY
    thought_idx: np.ndarray = EMPTY
    outlier: np.ndarray = EMPTY
    stretch: np.ndarray = EMPTY
    """Number of the stretch of text that a row is in."""
    first: np.ndarray = EMPTY
    """Whether it begins that."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one member in the order they are read: problem by problem, each in store order.

    `place` below is a position in this order; `units` are the problems that have rows.
    """

    row: np.ndarray
    position: np.ndarray
    """Position in the view of each place."""
    unit: np.ndarray
    first: np.ndarray
    """First place of each unit, and one past the last place."""
    problem: np.ndarray
    """Line in the problems table of each unit."""
    columns: RowColumns

    def chunks(self, rows: int, units: int) -> Iterator[tuple[int, int]]:
        """Ranges of units of about `rows` rows and at most `units` units; at least one unit each."""
        low = 0
        while low < len(self.problem):
            reach = int(np.searchsorted(self.first, self.first[low] + rows, side="right")) - 1
            high = min(max(reach, low + 1), low + units)
            yield low, high
            low = high


class Member:
    """One SAE of a directory, on its hooks and thoughts and the rows of one split (None: all).

    `hook_names` are the vectors that a row has a code for: a crosscoder has one code for all of its sites,
    named by its hooks joined with "+", and one row for all thoughts where these are its sites.

    Raises:
        MismatchError: the store has another hook, width or cell than the SAE.
    """

    def __init__(
        self, store: ActivationStore, name: str, sae: SAE, *, split: str | None, batch_size: int
    ) -> None:
        self.store, self.name, self.sae, self.batch_size = store, name, sae, batch_size
        check_hooks(store, sae, name)
        self.thoughts, self.hook_names = member_thoughts(store, sae), list(sae.hook_names)
        self.source: View | JoinedView
        if isinstance(sae, Crosscoder):
            self._one_row_for_all_sites(split)
        else:
            self.source = self.view = store.view(sae.hook_names, split=split, thoughts=self.thoughts)
        self.rows = _rows(store, self.view)
        self.text = store.meta.kind == "text"

    def codes(self, low: int, high: int) -> sp.csr_array:
        """The codes `[vectors, d_sae]` of the rows of units `low` to `high`, all hooks of a row in turn."""
        return self.codes_at(np.arange(self.rows.first[low], self.rows.first[high]))

    @torch.no_grad()
    def codes_at(self, places: np.ndarray, other: Baseline | None = None) -> sp.csr_array:
        """The codes `[vectors, d_sae]` of the rows at these places, all hooks of a row in turn.

        Args:
            places: Positions in the order of `rows`.
            other: Whose codes instead of the SAE's.
        """
        n_hooks, parts, by = len(self.hook_names), [], other or self.sae
        for start in range(0, len(places), self.batch_size):
            here = places[start : start + self.batch_size]
            columns = []
            for hook in range(n_hooks):
                idx = hook * self.view.n_rows + self.rows.position[here]
                cell = by.cell_index(self.store.cells, self.view.cell_of(idx))
                acts = by.encode_sparse(self._read(idx), cell)
                row, at = torch.nonzero(acts.values, as_tuple=True)
                latent, value = acts.indices[row, at].numpy(), acts.values[row, at].float().numpy()
                columns.append((row.numpy() * n_hooks + hook, latent, value))
            vector, latent, value = (np.concatenate(column) for column in zip(*columns, strict=True))
            shape = (len(here) * n_hooks, by.d_sae)
            parts.append(sp.coo_array((value, (vector, latent)), shape=shape).tocsr())
        return parts[0] if len(parts) == 1 else sp.csr_array(sp.vstack(parts))

    def _read(self, idx: np.ndarray) -> torch.Tensor:
        found = self.source.read(idx)
        return (found.x if isinstance(found, Joined) else found).to(self.sae.W_enc.dtype)

    def _one_row_for_all_sites(self, split: str | None) -> None:
        """A crosscoder's rows: those of its first site, each read together with the other sites."""
        store, sae, thoughts = self.store, self.sae, self.thoughts
        member = Selection(self.name, tuple(sae.hook_names), None if thoughts is None else tuple(thoughts))
        self.source = open_source(sae.cfg, store, member, split, False)
        if sae.cfg.over == "thoughts":
            self.thoughts = (thoughts or store.thoughts)[:1]
        self.hook_names = ["+".join(sae.hook_names)]
        self.view = store.view(sae.hook_names[:1], split=split, thoughts=self.thoughts)


def check_hooks(store: ActivationStore, sae: SAE, name: str) -> None:
    """Raise MismatchError unless the store has the SAE's hooks at its width."""
    for hook in sae.hook_names:
        if hook not in store.hook_names:
            raise MismatchError(
                f"The SAE {name!r} was trained on {hook!r} but {store.root} holds "
                f"{', '.join(store.hook_names)}. Extract again with this hook, or give another SAE"
            )
        if store.meta.d_in[hook] != sae.d_in:
            raise MismatchError(
                f"The SAE {name!r} takes width {sae.d_in} but {hook!r} in {store.root} has "
                f"{store.meta.d_in[hook]}: it belongs to another model. Give the store it was trained on"
            )


def member_thoughts(store: ActivationStore, sae: SAE) -> list[int] | None:
    """The thoughts of the store that the SAE was trained on; None for text."""
    if store.meta.kind == "text":
        return None
    own = sae.provenance.get("thoughts")
    return list(store.thoughts) if own is None else [t for t in store.thoughts if t in own]


def _rows(store: ActivationStore, view: View) -> Rows:
    n = view.n_rows
    row = view.rows_of(np.arange(n))
    problem = store.problem_idx[row]
    order = np.argsort(problem, kind="stable")
    row, problem = row[order], problem[order]
    start = np.flatnonzero(np.r_[True, problem[1:] != problem[:-1]])
    names = [c for c in ("position", "token_id", "thought_idx", "outlier") if c in store.rows.column_names]
    columns = RowColumns(**{c: store.rows[c].to_numpy()[row] for c in names})
    if "position" in names:
        stretch = stretches(problem, columns.position)
        columns = columns._replace(stretch=stretch, first=np.r_[True, stretch[1:] != stretch[:-1]])
    unit = np.repeat(np.arange(len(start)), np.diff(np.r_[start, n]))
    return Rows(row, order, unit, np.r_[start, n], problem[start], columns)


def stretches(
    problem: Shaped[np.ndarray, " rows"], position: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """Number of the stretch of each row: a new one begins with a problem, or where positions go back."""
    if not len(problem):
        return np.zeros(0, np.int64)
    new = (problem[1:] != problem[:-1]) | (position[1:] <= position[:-1])
    return np.r_[0, np.cumsum(new)]
