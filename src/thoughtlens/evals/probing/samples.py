"""The units that are classified (problems with thoughts, or texts), and their features for every arm."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from thoughtlens.acts import USED, ActivationStore
from thoughtlens.core import DataError
from thoughtlens.evals.probing.attention import Bags
from thoughtlens.evals.probing.coders import CellKey, Cover
from thoughtlens.evals.probing.matrices import Matrix, compact, dense, rows, shape, stack
from thoughtlens.evals.probing.menu import ARMS
from thoughtlens.evals.probing.representations import (
    CELL_POOLINGS,
    ENCODERS,
    TOKEN_POOLINGS,
    Encode,
    cell_name,
    code,
)
from thoughtlens.sae import SAE

TEXTS_AT_ONCE = 256

Document = tuple[int, dict[str, Float[Tensor, "rows _"]]]
"""Which unit, and its token rows by hook."""

Key = tuple[Encode, str]
"""How vectors are encoded, and how they are pooled."""


@dataclass(frozen=True, eq=False)
class Units:
    """What is classified, one entry per unit."""

    ids: Sequence[str]
    groups: Int[np.ndarray, " n"]
    y: Shaped[np.ndarray, " n"]
    """Class codes, or the number to predict."""
    classes: list[str] | None
    """Names of the classes; None where a number is predicted."""
    texts: Sequence[str]
    n_steps: Float[np.ndarray, " n"] | None = None
    """Steps of each problem, where the store says."""

    def take(self, kept: Bool[np.ndarray, " n"]) -> Units:
        """Some of the units."""
        rows = np.flatnonzero(kept).tolist()
        return Units(
            [self.ids[i] for i in rows], self.groups[rows], self.y[rows], self.classes,
            [self.texts[i] for i in rows], None if self.n_steps is None else self.n_steps[rows],
        )  # fmt: skip

    @property
    def n_classes(self) -> int | None:
        """Number of classes; None where a number is predicted."""
        return None if self.classes is None else len(self.classes)


@dataclass(frozen=True)
class Origin:
    """Where a column of a matrix comes from."""

    member: str
    hook_names: list[str]
    thoughts: list[int]
    index: int
    """Of the latent, component or coordinate."""


class ThoughtSamples:
    """Problems with one vector per (hook, thought)."""

    poolings = CELL_POOLINGS

    def __init__(self, cover: Cover, lines: Int[np.ndarray, " n"]) -> None:
        self.cover, store = cover, cover.store
        if store.thought_idx is None:
            raise DataError(f"Expected a store of thoughts at {store.root}, got one of text")
        thoughts = np.asarray(store.thoughts)
        self.row = np.full((len(store.problems), len(thoughts)), -1)
        self.row[store.problem_idx, np.searchsorted(thoughts, store.thought_idx)] = np.arange(store.n_rows)
        if (self.row >= 0).sum() < store.n_rows:
            twice = np.setdiff1d(np.arange(store.n_rows), self.row)[0]
            name = store.problems["problem_id"][int(store.problem_idx[twice])].as_py()
            raise DataError(
                f"Expected every problem once at every thought, {name!r} has thought "
                f"{store.thought_idx[twice]} several times in {store.root}; extract the store again"
            )
        self.row = self.row[lines]
        stopped = np.zeros(len(lines), int) + thoughts.max()
        if USED in store.problems.column_names:
            stopped = store.problems[USED].to_numpy()[lines]
        lost = (self.row < 0) & (thoughts >= 0) & (thoughts <= stopped[:, None])  # questions differ in length
        if lost.any():
            unit, at = np.argwhere(lost)[0]
            name = store.problems["problem_id"][int(lines[unit])].as_py()
            raise DataError(
                f"Expected every problem at every thought, {name!r} has no thought {thoughts[at]}; "
                f"extract the store again"
            )

    @property
    def n_short(self) -> int:
        """Problems that stopped thinking before others did, or whose question has fewer tokens; what they do
        not have counts as zeros.
        """
        return int((self.row < 0).any(1).sum())

    def poolings_of(self, arm: str) -> list[str]:
        """Poolings that this arm can have; none where the store lacks its thoughts."""
        if not self._cells(arm) or not self.cover.has(arm):
            return []
        return [name for name, p in self.poolings.items() if not (p.weighted and ARMS[arm].top)]

    def features(self, arm: str, wanted: Sequence[str]) -> Iterator[tuple[str, Matrix | Bags]]:
        """The arm's matrix under each pooling; `cell:HOOK/THOUGHT` is one cell alone."""
        if not wanted:
            return
        cells = self._cells(arm)
        parts = [self._cell(arm, cell) for cell in cells]
        alone = {cell_name(cell): part for cell, part in zip(cells, parts, strict=True)}
        for name in wanted:
            if name in alone:
                yield name, alone[name]
            elif self.poolings[name].weighted:
                blocks = self.poolings[name].blocks(cells)
                yield name, Bags([_alike([parts[i] for i in block]) for block in blocks])
            else:
                yield name, compact(self.poolings[name](parts, cells))

    def parts(self, arm: str) -> list[Matrix]:
        """The arm's matrix at each of its cells."""
        return [self._cell(arm, cell) for cell in self._cells(arm)]

    def vectors(self, name: str, units: Int[np.ndarray, " u"]) -> tuple[Tensor, Tensor]:
        """Raw vectors of some units at the cells of one SAE, and each one's index into the store's cells."""
        store, x, cell = self.cover.store, [], []
        for key in self.cover.cells:
            if key[2] == name:
                rows = self.row[units, self._column(key)]
                x.append(store.read(key[0], rows[rows >= 0]).float())
                cell.append(torch.full((len(x[-1]),), store.cells.index(key[:2])))
        return torch.cat(x), torch.cat(cell)

    def with_saes(self, saes: dict[str, SAE]) -> ThoughtSamples:
        """The same units seen by other SAEs."""
        other = copy.copy(self)
        other.cover = self.cover.with_saes(saes)
        return other

    def column(self, arm: str, pooling: str, column: int) -> Origin:
        """Where a column of the arm's matrix comes from: SAE, hooks, thoughts, and its index there."""
        cells, first = self._cells(arm), 0
        for block in self.poolings[pooling].blocks(cells):
            own = [cells[i] for i in block]
            width = self._width(arm, own[0])
            if column < first + width:
                hooks = list(dict.fromkeys(hook for hook, _, _ in own))
                thoughts = sorted({thought for _, thought, _ in own if thought is not None})
                return Origin(own[0][2], hooks, thoughts, column - first)
            first += width
        raise IndexError(f"Expected a column below {first}, got {column}")

    def cell_names(self) -> list[str]:
        """Poolings that look at one cell only."""
        return [cell_name(cell) for cell in self.cover.cells]

    def _column(self, cell: CellKey) -> int:
        return [c[1] for c in self.cover.store.cells if c[0] == cell[0]].index(cell[1])

    def _width(self, arm: str, cell: CellKey) -> int:
        sae = self.cover.coder(cell).sae
        return sae.d_sae if arm == "top_latents" else sae.d_in

    def _cells(self, arm: str) -> list[CellKey]:
        only = ARMS[arm].thoughts
        return [c for c in self.cover.cells if only is None or c[1] in only]

    def _cell(self, arm: str, cell: CellKey) -> Matrix:
        row = self.row[:, self._column(cell)]
        had = row >= 0
        found = code(arm, self.cover.coder(cell), self.cover.store.read(cell[0], row[had]), cell[:2])
        if had.all():
            return found
        whole = np.zeros((len(row), shape(found)[1]), np.float32)
        whole[had] = dense(found)
        return compact(whole)


class TextSamples:
    """Texts as pooled token rows; all arms and poolings are computed in one pass over the documents."""

    poolings = TOKEN_POOLINGS

    def __init__(self, cover: Cover, n: int, documents: Iterator[Document], arms: Sequence[str]) -> None:
        self.cover, self.n = cover, n
        self.arms = [arm for arm in arms if self.poolings_of(arm)]
        encoders = {ENCODERS[arm] for arm in self.arms}
        self.matrices = self._read(documents, [(e, p) for e in encoders for p in self.poolings])

    def poolings_of(self, arm: str) -> list[str]:
        """Poolings of this arm; a text has no begin-of-thought position."""
        possible = ARMS[arm].kind == "vectors" and ARMS[arm].thoughts is None and self.cover.has(arm)
        return list(self.poolings) if possible else []

    def parts(self, arm: str) -> list[Matrix]:
        """None: texts have no cells."""
        return []

    def column(self, arm: str, pooling: str, column: int) -> Origin:
        """Where a column of the arm's matrix comes from; members and hooks stand side by side."""
        first = 0
        for hook, _, name in self.cover.cells:
            sae = self.cover.saes[name]
            width = sae.d_sae if arm == "top_latents" else sae.d_in
            if column < first + width:
                return Origin(name, [hook], [], column - first)
            first += width
        raise IndexError(f"Expected a column below {first}, got {column}")

    def features(self, arm: str, wanted: Sequence[str]) -> Iterator[tuple[str, Matrix]]:
        """The arm's matrix under each pooling."""
        for name in wanted:
            yield name, self.matrices[ENCODERS[arm], name]

    def cell_names(self) -> list[str]:
        """A text's token positions are not cells that texts share."""
        return []

    @torch.no_grad()
    def _read(self, documents: Iterator[Document], keys: list[Key]) -> dict[Key, Matrix]:
        order: list[int] = []
        waiting: dict[Key, list[np.ndarray]] = {key: [] for key in keys}
        blocks: dict[Key, list[Matrix]] = {key: [] for key in keys}
        for index, acts in documents:
            order.append(index)
            for encode in {encode for encode, _ in keys}:
                parts = [self._encode(encode, acts[cell[0]], cell) for cell in self.cover.cells]
                for name, pool in self.poolings.items():
                    waiting[encode, name].append(torch.cat([pool(part) for part in parts]).numpy())
            if len(order) % TEXTS_AT_ONCE == 0:
                _flush(waiting, blocks)
        _flush(waiting, blocks)
        back = np.argsort(order)
        return {key: rows(stack(parts), back) for key, parts in blocks.items()}

    def _encode(self, encode: Encode, x: Tensor, cell: CellKey) -> Tensor:
        coders = self.cover.coder(cell)
        return encode(coders, x.to(coders.sae.W_enc.dtype), cell[:2]).float()


def stored_documents(
    store: ActivationStore, hooks: Sequence[str], lines: Int[np.ndarray, " n"]
) -> Iterator[Document]:
    """The token rows of chosen documents of a store, in the order of the text."""
    order = np.argsort(store.problem_idx, kind="stable")
    sorted_lines, position = store.problem_idx[order], store.rows["position"].to_numpy()
    for unit, line in enumerate(lines):
        low, high = np.searchsorted(sorted_lines, [line, line + 1])
        own = order[low:high]
        if not len(own):
            name = store.problems["problem_id"][int(line)].as_py()
            raise DataError(f"Expected rows of every problem, {name!r} has none in {store.root}")
        if len(np.unique(position[own])) < len(own):
            name = store.problems["problem_id"][int(line)].as_py()
            raise DataError(
                f"Expected every token once, {name!r} has some twice in {store.root}; extract again"
            )
        yield unit, {hook: store.read(hook, own) for hook in hooks}


def _alike(parts: list[Matrix]) -> list[Matrix]:
    """All dense, unless all are sparse."""
    if all(not isinstance(part, np.ndarray) for part in parts):
        return parts
    return [dense(part) for part in parts]


def _flush(waiting: dict[Key, list[np.ndarray]], blocks: dict[Key, list[Matrix]]) -> None:
    for key, block in waiting.items():
        if block:
            blocks[key].append(compact(np.stack(block)))
            block.clear()
