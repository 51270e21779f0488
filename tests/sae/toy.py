"""Small SAEs with known weights."""

from __future__ import annotations

import torch
from torch import Tensor

from thoughtlens import sae as saes

ROWS = ((1.0, 0.0), (0.0, 1.0), (0.6, 0.8))
X = ((3.0, 0.0), (1.0, 2.0))


def by_hand(cfg: saes.SAEConfig) -> saes.SAE:
    """Two inputs, three latents in the directions ROWS, encoder = decoder transposed, no biases."""
    sae = saes.create(cfg, 2, seed=0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor(ROWS))
        sae.W_enc.copy_(torch.tensor(ROWS).T)
    return sae


def random_sae(cfg: saes.SAEConfig, d_in: int = 6, seed: int = 0) -> saes.SAE:
    """float64, all parameters random, so that nothing cancels by accident."""
    sae = saes.create(cfg, d_in, seed=seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    sae.normalize_decoder()
    return sae


def rows(n: int, d_in: int = 6, seed: int = 0) -> Tensor:
    """Correlated float64 rows around a centre that is not 0."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d_in, d_in, generator=generator, dtype=torch.float64)
    return torch.randn(n, d_in, generator=generator, dtype=torch.float64) @ mix + 5


def directional_error(sae: saes.SAE, objective, seed: int = 0, step: float = 1e-6) -> float:
    """Largest relative gap, over the parameters, between the gradient of `objective()` along a random
    direction and its central difference."""
    generator = torch.Generator().manual_seed(seed)
    sae.zero_grad()
    objective().backward()
    worst = 0.0
    for parameter in sae.parameters():
        v = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        slope = float((parameter.grad * v).sum()) if parameter.grad is not None else 0.0
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(v, alpha=sign * step)
                ends.append(float(objective()))
                parameter.sub_(v, alpha=sign * step)
        difference = (ends[0] - ends[1]) / (2 * step)
        worst = max(worst, abs(slope - difference) / max(abs(difference), 1e-3))
    return worst
