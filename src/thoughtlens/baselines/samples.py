"""The units that are classified (problems with thoughts, or texts), and their features for every arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.baselines.matrices import Matrix, compact, rows, stack
from thoughtlens.baselines.pca import PCA
from thoughtlens.baselines.representations import (
    ARMS,
    CELL_POOLINGS,
    TOKEN_POOLINGS,
    Coders,
    Encode,
    code,
)
from thoughtlens.errors import ConfigError, DataError
from thoughtlens.explain.member import check_hooks, member_thoughts
from thoughtlens.sae import SAE
from thoughtlens.store import ActivationStore, View

PCA_ROWS = 20_000
"""Training vectors that principal components and L0 are estimated from."""
TEXTS_AT_ONCE = 256

Document = tuple[int, dict[str, Float[Tensor, "rows _"]]]
"""Which unit, and its token rows by hook."""

Key = tuple[Encode, str]
"""How vectors are encoded, and how they are pooled."""


@dataclass(frozen=True, eq=False)
class Units:
    """What is classified, one entry a unit."""

    ids: Sequence[str]
    groups: Int[np.ndarray, " n"]
    y: Int[np.ndarray, " n"]
    classes: list[str]
    texts: Sequence[str]


class Cover:
    """Which SAE of a directory covers which (hook, thought) cell of a store, and the arms' coders."""

    def __init__(self, store: ActivationStore, saes: dict[str, SAE], pca_k: int | None, seed: int) -> None:
        self.store, self.saes = store, saes
        for name, sae in saes.items():
            check_hooks(store, sae, name)
        owners = {
            cell: [name for name, sae in saes.items() if self._covers(sae, cell)] for cell in store.cells
        }
        for (hook, thought), names in owners.items():
            if len(names) > 1:
                raise ConfigError(
                    f"members: {' and '.join(names[:2])} both cover {hook}"
                    f"{'' if thought is None else f', thought {thought}'}; name the ones to use"
                )
        self.cells = [(hook, thought, names[0]) for (hook, thought), names in owners.items() if names]
        self.l0 = {name: self._l0(name, seed) for name in dict.fromkeys(name for _, _, name in self.cells)}
        self.coders: dict[tuple[str, str], Coders] = {}
        for hook, name in dict.fromkeys((hook, name) for hook, _, name in self.cells):
            k = min(pca_k or max(1, round(self.l0[name])), saes[name].d_in)
            x = self._training_rows(name, [hook]).sample(PCA_ROWS, seed).x
            self.coders[hook, name] = Coders(saes[name], PCA.fit(x, k))

    def coder(self, cell: tuple[str, int | None, str]) -> Coders:
        """The coders of a cell."""
        return self.coders[cell[0], cell[2]]

    def _covers(self, sae: SAE, cell: tuple[str, int | None]) -> bool:
        thoughts = member_thoughts(self.store, sae)
        return cell[0] in sae.hook_names and (thoughts is None or cell[1] in thoughts)

    def _training_rows(self, name: str, hooks: list[str]) -> View:
        """The rows that a SAE was trained on; all its rows where those are not known."""
        sae, store = self.saes[name], self.store
        split = sae.provenance.get("split")
        known = split in store.problems["split"].unique().to_pylist()
        return store.view(hooks, split=split if known else None, thoughts=member_thoughts(store, sae))

    @torch.no_grad()
    def _l0(self, name: str, seed: int) -> float:
        sae = self.saes[name]
        batch = self._training_rows(name, sae.hook_names).sample(PCA_ROWS, seed)
        n_fires = 0
        for low in range(0, len(batch.x), 2048):
            part = slice(low, low + 2048)
            cell = sae.cell_index(self.store.cells, batch.cell[part])
            n_fires += int((sae.encode(batch.x[part].to(sae.W_enc.dtype), cell) != 0).sum())
        return n_fires / len(batch.x)


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
        self.row = self.row[lines]
        if (self.row < 0).any():
            unit, at = np.argwhere(self.row < 0)[0]
            name = store.problems["problem_id"][int(lines[unit])].as_py()
            raise DataError(
                f"Expected every problem at every thought, {name!r} has no thought {thoughts[at]}; "
                f"extract the store again"
            )

    def poolings_of(self, arm: str) -> list[str]:
        """Poolings that this arm can have; none where the store lacks its thoughts."""
        return list(self.poolings) if self._cells(arm) else []

    def features(self, arm: str, wanted: Sequence[str]) -> Iterator[tuple[str, Matrix]]:
        """The arm's matrix under each pooling; `cell:HOOK/THOUGHT` is one cell alone."""
        cells = self._cells(arm)
        parts = [self._cell(arm, cell) for cell in cells]
        alone = {cell_name(cell): part for cell, part in zip(cells, parts, strict=True)}
        for name in wanted:
            yield name, alone[name] if name in alone else compact(self.poolings[name](parts, cells))

    def cell_names(self) -> list[str]:
        """Poolings that look at one cell only."""
        return [cell_name(cell) for cell in self.cover.cells]

    def _cells(self, arm: str) -> list[tuple[str, int | None, str]]:
        only = ARMS[arm].thoughts
        return [c for c in self.cover.cells if only is None or c[1] in only]

    def _cell(self, arm: str, cell: tuple[str, int | None, str]) -> Matrix:
        store = self.cover.store
        column = [c[1] for c in store.cells if c[0] == cell[0]].index(cell[1])
        x = store.read(cell[0], self.row[:, column])
        return code(ARMS[arm], self.cover.coder(cell), x, cell[:2])


class TextSamples:
    """Texts as pooled token rows; all arms and poolings are computed in one pass over the documents."""

    poolings = TOKEN_POOLINGS

    def __init__(self, cover: Cover, n: int, documents: Iterator[Document], arms: Sequence[str]) -> None:
        self.cover, self.n = cover, n
        self.arms = [arm for arm in arms if self.poolings_of(arm)]
        encoders = {_encode_of(arm) for arm in self.arms}
        self.matrices = self._read(documents, [(e, p) for e in encoders for p in self.poolings])

    def poolings_of(self, arm: str) -> list[str]:
        """Poolings of this arm; a text has no begin-of-thought position."""
        return list(self.poolings) if ARMS[arm].kind == "vectors" and ARMS[arm].thoughts is None else []

    def features(self, arm: str, wanted: Sequence[str]) -> Iterator[tuple[str, Matrix]]:
        """The arm's matrix under each pooling."""
        for name in wanted:
            yield name, self.matrices[_encode_of(arm), name]

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

    def _encode(self, encode: Encode, x: Tensor, cell: tuple[str, int | None, str]) -> Tensor:
        coders = self.cover.coder(cell)
        return encode(coders, x.to(coders.sae.W_enc.dtype), cell[:2]).float()


def _encode_of(arm: str) -> Encode:
    encode = ARMS[arm].encode
    assert encode is not None, f"{arm} has no vectors"
    return encode


def stored_documents(
    store: ActivationStore, hooks: Sequence[str], lines: Int[np.ndarray, " n"]
) -> Iterator[Document]:
    """The token rows of chosen documents of a store, in the order of the text."""
    order = np.argsort(store.problem_idx, kind="stable")
    sorted_lines = store.problem_idx[order]
    for unit, line in enumerate(lines):
        low, high = np.searchsorted(sorted_lines, [line, line + 1])
        own = order[low:high]
        if not len(own):
            name = store.problems["problem_id"][int(line)].as_py()
            raise DataError(f"Expected rows of every problem, {name!r} has none in {store.root}")
        yield unit, {hook: store.read(hook, own) for hook in hooks}


def cell_name(cell: tuple[str, int | None, str]) -> str:
    """How a single cell is called among the poolings."""
    return f"cell:{cell[0]}/{cell[1]}"


def _flush(waiting: dict[Key, list[np.ndarray]], blocks: dict[Key, list[Matrix]]) -> None:
    for key, block in waiting.items():
        if block:
            blocks[key].append(compact(np.stack(block)))
            block.clear()
