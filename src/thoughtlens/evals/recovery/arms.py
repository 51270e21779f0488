"""The dictionaries whose codes are compared: the SAE, and what could do the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts import ActivationStore
from thoughtlens.core import ConfigError
from thoughtlens.evals.recovery.recover import Codes, codes_of
from thoughtlens.latents import check_hooks, member_thoughts
from thoughtlens.models import Place
from thoughtlens.sae import SAE, Covariance, Crosscoder, KMeans, RandomSAE

SAMPLE_ROWS = 40_000
"""Training vectors that the baselines are fitted on."""
FEW = 4096
"""Of them, those that the SAE's L0 is of."""


@dataclass(frozen=True, eq=False)
class Dictionaries:
    """An SAE and its rivals on the places that it was trained for."""

    places: list[Place]
    l0: float
    """Latents of the SAE that fire on a row of the sample."""
    sae: Codes
    baselines: Mapping[str, Codes]


def dictionaries(store: ActivationStore, name: str, sae: SAE, seed: int) -> Dictionaries:
    """The SAE `name` and its baselines, fitted on training vectors of its places.

    Raises:
        ConfigError: a crosscoder, whose codes are not of one place.
        MismatchError: a store of another model than the SAE's.
    """
    check_hooks(store, sae, name)
    if isinstance(sae, Crosscoder):
        raise ConfigError(f"{name} is a crosscoder, whose codes belong to several places at once")
    thoughts = member_thoughts(store, sae)
    view = store.view(sae.hook_names, split="train", thoughts=thoughts)
    sample = view.sample(SAMPLE_ROWS, seed)
    used = np.unique(view.cell_of(np.arange(view.n))).tolist()
    cells = [store.cells[i] for i in used]
    cell = torch.from_numpy(np.searchsorted(used, sample.cell))
    own = sae.cell_index(store.cells, sample.cell)
    with torch.no_grad():
        few = sample.x[:FEW].to(sae.W_enc.dtype)
        l0 = float((sae.encode(few, None if own is None else own[:FEW]) != 0).sum(-1).float().mean())
    k = max(1, round(l0))
    kmeans = KMeans.fit(sample.x, min(sae.d_sae, len(sample.x) // 2), seed=seed, cell=cell, cells=cells)
    baselines: dict[str, Codes] = {
        "kmeans": codes_of(kmeans),
        "neurons": _strongest(sample.x, cell, cells, k, rotate=False),
        "pca": _strongest(sample.x, cell, cells, k, rotate=True),
        "random": codes_of(RandomSAE.like(sae, sample.x, own, l0=max(l0, 1e-3), seed=seed)),
    }
    if k > 1:
        baselines["kmeans_residual"] = codes_of(kmeans.with_k(k))
    return Dictionaries([Place(*c) for c in cells], l0, codes_of(sae), baselines)


def _strongest(x: Float[Tensor, "n d_in"], cell: Tensor, cells: list, k: int, *, rotate: bool) -> Codes:
    """The k directions on which a row lies furthest out, each side of a direction a latent of its own.

    Directions are the neurons, or the principal components, of rows centred on their cell; both in standard
    deviations.
    """
    mean = torch.stack([x[cell == i].mean(0) for i in range(len(cells))])
    centred = x - mean[cell]
    rotation = torch.eye(x.shape[1])
    if rotate:
        covariance = Covariance(x.shape[1])
        covariance.update(centred)
        rotation = covariance.pca(x.shape[1]).W_enc
    spread = (centred @ rotation).std(0).clamp_min(1e-12)

    def codes(x: Float[Tensor, "n d_in"], place: Place) -> sp.csr_array:
        z = (x - mean[cells.index((place.hook_name, place.thought))]) @ rotation / spread
        best = z.abs().topk(min(k, z.shape[1]), dim=1).indices
        latent = best + z.shape[1] * (z.gather(1, best) < 0)
        row = np.repeat(np.arange(len(x)), best.shape[1])
        ones = np.ones(latent.numel(), np.float32)
        return sp.csr_array((ones, (row, latent.numpy().ravel())), shape=(len(x), 2 * z.shape[1]))

    return codes
