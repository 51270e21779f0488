"""Fires made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thoughtlens.latents.codes.fires import Fires


def fires_of(acts: np.ndarray, sizes: Sequence[int]) -> Fires:
    """The fires of dense activations [places, hooks, latents], given the places of each problem."""
    places, hooks, d_sae = acts.shape
    flat = acts.reshape(places * hooks, d_sae)
    latent, vector = np.nonzero(flat.T)
    indptr = np.r_[0, np.cumsum(np.bincount(latent, minlength=d_sae))]
    unit = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    assert len(unit) == places
    return Fires(
        indptr, vector.astype(np.int32), flat[vector, latent].astype(np.float32), unit,
        np.r_[0, np.cumsum(sizes)], hooks,
    )  # fmt: skip
