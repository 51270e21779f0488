"""k-means as a dictionary: its centroids are the latents, and a row is the nearest one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import DataError
from thoughtlens.sae.baselines.base import Baseline, at_cell
from thoughtlens.sae.kinds.normalization import Cell

BATCH = 4096


class KMeans(Baseline):
    """Each row is its nearest centroid; with k > 1 what is left of it is again, k times (residual codes).

    Lloyd 1982; residual quantisation as in Chen, Guan and Wang 2010. Rows are centred on their cell's mean.
    """

    mean: Tensor
    W_dec: Tensor

    def __init__(
        self,
        centroids: Float[Tensor, "d_sae d_in"],
        mean: Float[Tensor, "n_cells d_in"],
        cells: Sequence[Cell] | None = None,
        k: int = 1,
    ) -> None:
        super().__init__(centroids.shape[1], len(centroids), cells)
        self.k = k
        self.register_buffer("mean", mean)
        self.register_buffer("W_dec", centroids)

    @classmethod
    def fit(
        cls,
        x: Float[Tensor, "n d_in"],
        d_sae: int,
        *,
        seed: int,
        cell: Int[Tensor, " n"],
        cells: Sequence[Cell],
    ) -> KMeans:
        """Centroids of a sample of training rows, one code per row.

        Args:
            x: Raw activations.
            d_sae: Centroids.
            seed: Of the first centroids and the batches.
            cell: Each row's index into `cells`.
            cells: The (hook_name, thought_idx) pairs; every one has rows.
        """
        from sklearn.cluster import MiniBatchKMeans  # here: it takes a second to load

        if len(x) < d_sae:
            raise DataError(f"k-means with {d_sae} centroids needs as many rows, got {len(x)}")
        mean = torch.stack([x[cell == i].mean(0) for i in range(len(cells))])
        own = MiniBatchKMeans(d_sae, batch_size=BATCH, n_init="auto", random_state=seed)
        own.fit((x - mean[cell]).float().numpy())
        return cls(torch.from_numpy(own.cluster_centers_).to(x), mean, cells)

    def with_k(self, k: int) -> KMeans:
        """The same centroids, k codes per row."""
        return KMeans(self.W_dec, self.mean, self.cells, k)

    def encode(
        self, x: Float[Tensor, "*batch d_in"], cell: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """How often each centroid is used: once per code."""
        rest = x.to(self.mean.dtype) - at_cell(self.mean, self.cells, cell)
        acts = rest.new_zeros(*rest.shape[:-1], self.d_sae)
        half = self.W_dec.square().sum(1) / 2
        for _ in range(self.k):
            nearest = (rest @ self.W_dec.T - half).argmax(-1, keepdim=True)
            acts.scatter_add_(-1, nearest, torch.ones_like(nearest, dtype=acts.dtype))
            rest = rest - self.W_dec[nearest[..., 0]]
        return acts

    def decode(
        self,
        acts: Float[Tensor, "*batch d_sae"],
        cell: Int[Tensor, "*batch"] | None = None,
        x: Tensor | None = None,
    ) -> Float[Tensor, "*batch d_in"]:
        """The sum of the centroids."""
        return acts @ self.W_dec + at_cell(self.mean, self.cells, cell)
