"""What turns raw vectors into an arm's features: the SAE, and what is held beside it, fitted on its rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts import ActivationStore, View, ViewBatch
from thoughtlens.core import ConfigError
from thoughtlens.latents import check_hooks, member_thoughts
from thoughtlens.sae import PCA, SAE, Baseline, Cell, RandomSAE, settings, train_rows

SAMPLE_ROWS = 20_000
"""Training vectors that components, L0, random and frozen dictionaries are fitted on."""
FROZEN_ROWS = 200_000
"""Vectors that a frozen-decoder SAE is trained on, over as many passes as that takes."""

CellKey = tuple[str, int | None, str]
"""(hook_name, thought_idx, name of the SAE that covers it)."""


@dataclass(frozen=True, eq=False)
class Coders:
    """What turns raw vectors of a cell into features."""

    sae: SAE
    pca: PCA
    """All principal components of the SAE's training vectors of this cell's hook."""
    k_l0: int
    """As many components as the SAE's L0, rounded."""
    k_live: int
    """As many as its live latents, at most d_in."""
    projection: Float[Tensor, "d_in k_l0"]
    """Random directions, as many as its L0."""
    random_sae: Baseline | None
    frozen_sae: SAE | None


class Cover:
    """Which SAE of a directory covers which (hook, thought) cell of a store, and the arms' coders.

    Args:
        store: The activations.
        saes: By name.
        pca_k: Components of the arm `pca`; None: the SAE's L0, rounded.
        seed: Of samples and random directions.
        arms: Random and frozen dictionaries are made for these only.

    Raises:
        ConfigError: two SAEs cover one cell.
    """

    def __init__(
        self, store: ActivationStore, saes: dict[str, SAE], pca_k: int | None, seed: int,
        arms: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.store, self.saes = store, saes
        for name, sae in saes.items():
            check_hooks(store, sae, name)
        self.cells = self._covered()
        self.l0: dict[str, float] = {}
        self.n_live: dict[str, int] = {}
        self.coders: dict[tuple[str, str], Coders] = {}
        for name in dict.fromkeys(name for _, _, name in self.cells):
            self._fit(name, pca_k, seed, arms)

    def coder(self, cell: CellKey) -> Coders:
        """The coders of a cell."""
        return self.coders[cell[0], cell[2]]

    def has(self, arm: str) -> bool:
        """Whether every cell has what the arm needs."""
        needed = {"random_sae": "random_sae", "frozen_decoder": "frozen_sae"}.get(arm)
        return needed is None or all(getattr(c, needed) is not None for c in self.coders.values())

    def with_saes(self, saes: dict[str, SAE]) -> Cover:
        """The same cells and baselines, with other SAEs under the same names."""
        other = copy.copy(self)
        other.saes = saes
        other.coders = {key: replace(coders, sae=saes[key[1]]) for key, coders in self.coders.items()}
        return other

    def _covered(self) -> list[CellKey]:
        owners = {
            cell: [name for name, sae in self.saes.items() if self._covers(sae, cell)]
            for cell in self.store.cells
        }
        for (hook, thought), names in owners.items():
            if len(names) > 1:
                raise ConfigError(
                    f"members: {' and '.join(names[:2])} both cover {hook}"
                    f"{'' if thought is None else f', thought {thought}'}; name the ones to use"
                )
        return [(hook, thought, names[0]) for (hook, thought), names in owners.items() if names]

    def _covers(self, sae: SAE, cell: Cell) -> bool:
        thoughts = member_thoughts(self.store, sae)
        return cell[0] in sae.hook_names and (thoughts is None or cell[1] in thoughts)

    def _fit(self, name: str, pca_k: int | None, seed: int, arms: Collection[str]) -> None:
        sae = self.saes[name]
        batch = self._training_rows(name, sae.hook_names).sample(SAMPLE_ROWS, seed)
        self.l0[name], self.n_live[name] = _firing(sae, batch, self.store.cells)
        random_sae, frozen = None, None
        if "random_sae" in arms and self.l0[name] > 0:
            random_sae = RandomSAE.like(
                sae, batch.x[:8192], sae.cell_index(self.store.cells, batch.cell[:8192]),
                l0=self.l0[name], seed=seed,
            )  # fmt: skip
        if "frozen_decoder" in arms and sae.reconstructs and sae.cfg.kind != "supervised":
            frozen = _frozen(sae, batch, self.store.cells, seed)
        for hook in dict.fromkeys(hook for hook, _, owner in self.cells if owner == name):
            k = min(pca_k or max(1, round(self.l0[name])), sae.d_in)
            x = self._training_rows(name, [hook]).sample(SAMPLE_ROWS, seed).x
            generator = torch.Generator().manual_seed(seed)
            self.coders[hook, name] = Coders(
                sae,
                PCA.fit(x, sae.d_in),
                k,
                min(max(1, self.n_live[name]), sae.d_in),
                torch.randn(sae.d_in, k, generator=generator) / math.sqrt(sae.d_in),
                random_sae,
                frozen,
            )

    def _training_rows(self, name: str, hooks: list[str]) -> View:
        """The rows that a SAE was trained on; all its rows where those are not known."""
        sae, store = self.saes[name], self.store
        split = sae.provenance.get("split")
        known = split in store.problems["split"].unique().to_pylist()
        return store.view(hooks, split=split if known else None, thoughts=member_thoughts(store, sae))


@torch.no_grad()
def _firing(sae: SAE, batch: ViewBatch, cells: list[Cell]) -> tuple[float, int]:
    """L0, and the number of latents that fire at all."""
    counts = torch.zeros(sae.d_sae)
    for low in range(0, len(batch.x), 2048):
        part = slice(low, low + 2048)
        cell = sae.cell_index(cells, batch.cell[part])
        counts += (sae.encode(batch.x[part].to(sae.W_enc.dtype), cell) != 0).sum(0)
    return float(counts.sum()) / len(batch.x), int((counts > 0).sum())


def _frozen(sae: SAE, batch: ViewBatch, cells: list[Cell], seed: int) -> SAE:
    """The SAE's architecture with random decoder directions that stay; encoder and biases trained."""
    cfg: Any = sae.cfg
    n = len(batch.x)
    s = settings(cfg, sae.d_sae, n, epochs=FROZEN_ROWS / n, batch_size=min(1024, n), seed=seed)
    return train_rows(cfg, batch.x.float(), torch.from_numpy(batch.cell), cells, s, frozen_decoder=True)
