"""Rows whose class is planted, and an SAE that finds where."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from thoughtlens import sae as saes

D = 16


def planted_rows(y: np.ndarray, seed: int = 0, strength: float = 1.0) -> Tensor:
    """Sums of unit directions with sparse strengths; direction 3 is stronger in class 1."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((len(y), D)) < 0.4, rng.random((len(y), D)), 0)
    x[:, 3] += strength * y * rng.random(len(y))
    return torch.from_numpy(x.astype(np.float32))


def probe_sae(hooks: tuple[str, ...] = ("layers.1:out",)) -> saes.SAE:
    """Latent j fires with the strength of direction j, decoder rows twice as long."""
    sae = saes.create(saes.ReLUConfig(d_sae=D, normalization="none"), D, seed=0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(D) / 2)
        sae.W_dec.copy_(2 * torch.eye(D))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    sae.hook_names = list(hooks)
    return sae
