"""How often each latent fires at each (layer, thought), from the codes that interpret kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.acts import ActivationStore
from thoughtlens.core import BY_NAME, Record, StoreError
from thoughtlens.latents import Codes, open_codes
from thoughtlens.show.explorer.build import rounded
from thoughtlens.show.explorer.sources import Source

CHUNK = 1 << 22
"""Fires counted at a time."""


@dataclass(frozen=True, kw_only=True)
class Rates(Record):
    """How often one latent fires at each place: values [rows, thoughts]."""

    rows: list[str]
    thoughts: list[int]
    values: list[list[float | None]]
    n: int
    """The least number of vectors of a cell."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Fires of every latent and vectors, both by cell; cells are hook-major."""

    hook_names: list[str]
    thoughts: list[int]
    n_fires: Int[np.ndarray, "d_sae cells"]
    n: Int[np.ndarray, " cells"]

    @classmethod
    def of(cls, source: Source) -> Cells | None:
        """Those of a thought SAE; None for text, and where interpret kept no codes."""
        codes = None if source.run.kind == "text" else codes_of(source)
        if codes is None:
            return None
        thought = ActivationStore.open(source.run.root / "acts").rows["thought_idx"].to_numpy()
        return cls.count(codes, thought[codes.store_row])

    @classmethod
    def count(cls, codes: Codes, thought_of_place: Int[np.ndarray, " places"]) -> Cells:
        """Count the fires of every latent in one pass over the codes."""
        thoughts, at = np.unique(thought_of_place, return_inverse=True)
        hooks = len(codes.hook_names)
        n_cells = hooks * len(thoughts)
        vectors = np.arange(codes.n_vectors)
        cell = codes.hooks_of(vectors) * len(thoughts) + at[vectors // hooks]
        found = np.zeros(codes.d_sae * n_cells, np.int64)
        indptr, indices = codes.by_latent.indptr, codes.by_latent.indices
        for low in range(0, codes.n_fires, CHUNK):
            fires = cell[indices[low : low + CHUNK]]
            latent = np.searchsorted(indptr, np.arange(low, low + len(fires)), side="right") - 1
            found += np.bincount(latent * n_cells + fires, minlength=len(found))
        n = np.bincount(cell, minlength=n_cells)
        return cls(codes.hook_names, thoughts.tolist(), found.reshape(codes.d_sae, n_cells), n)

    @cached_property
    def rates(self) -> Float[np.ndarray, "d_sae cells"]:
        """Share of each cell's vectors on which each latent fires."""
        return self.n_fires / np.maximum(self.n, 1)

    def strip(self, latent: int) -> Rates:
        """The rates of one latent."""
        shown, width = rounded(self.rates[latent]), len(self.thoughts)
        lines = [shown[low : low + width] for low in range(0, len(shown), width)]
        return Rates(rows=self.hook_names, thoughts=self.thoughts, values=lines, n=int(self.n.min()))

    def peaks(self) -> list[tuple[str, int, int]]:
        """Each cell, and how many live latents fire most often there."""
        live = self.n_fires.any(1)
        counts = np.bincount(self.rates[live].argmax(1), minlength=len(self.n)).tolist()
        cells = [(hook, thought) for hook in self.hook_names for thought in self.thoughts]
        return [(*cell, count) for cell, count in zip(cells, counts, strict=True)]


def codes_of(source: Source) -> Codes | None:
    """The codes of an SAE that interpret kept; None where it kept none.

    Raises:
        StoreError: they are of another store.
    """
    root = source.run.root / "interpret"
    if not (root / "codes").is_dir():
        return None
    codes = open_codes(root).get(source.name)
    n_rows = ActivationStore.open(source.run.root / "acts").rows.num_rows
    if codes is not None and codes.store_row.max(initial=-1) >= n_rows:
        folder = codes.root.parent.parent
        raise StoreError(
            f"{codes.root} has rows that the store lacks; delete {folder} and run: "
            f"{BY_NAME['interpret'].command(folder.parent)}"
        )
    return codes
