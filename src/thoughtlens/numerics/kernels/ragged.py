"""Sparse activations with a number of latents of its own on every row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class RaggedActs:
    """Activations one after the other, row by row, and where each latent's are; all others are 0.

    `values[row_starts[b] : row_starts[b + 1]]` are those of row b, on `latents[...]` of the same places.
    Those of latent i stand at `places[latent_starts[i] : latent_starts[i + 1]]`, on `rows[...]`.
    """

    values: Float[Tensor, " n"]
    latents: Int[Tensor, " n"]
    row_starts: Int[Tensor, " batch_plus_1"]
    rows: Int[Tensor, " n"]
    places: Int[Tensor, " n"]
    latent_starts: Int[Tensor, " d_sae_plus_1"]

    @property
    def counts(self) -> Int[Tensor, " d_sae"]:
        """On how many rows each latent fires."""
        fired = self.latents.new_zeros(len(self.latent_starts) - 1)
        return fired.scatter_add_(0, self.latents, (self.values != 0).to(fired.dtype))

    def between(self, first: int, last: int) -> RaggedActs:
        """Those of the latents from `first` to `last`, which are counted from 0 then."""
        kept = (self.latents >= first) & (self.latents < last)
        before = torch.cat([kept.new_zeros(1, dtype=torch.long), kept.cumsum(0)])
        block = slice(int(self.latent_starts[first]), int(self.latent_starts[last]))
        return RaggedActs(
            values=self.values[kept],
            latents=self.latents[kept] - first,
            row_starts=before[self.row_starts],
            rows=self.rows[block],
            places=before[self.places[block]],
            latent_starts=self.latent_starts[first : last + 1] - block.start,
        )

    def to_dense(self, d_sae: int) -> Float[Tensor, "batch d_sae"]:
        """The same as one column per latent."""
        n_rows = len(self.row_starts) - 1
        row = torch.arange(n_rows, device=self.values.device).repeat_interleave(self.row_starts.diff())
        dense = self.values.new_zeros(n_rows, d_sae)
        return dense.index_put((row, self.latents), self.values)
