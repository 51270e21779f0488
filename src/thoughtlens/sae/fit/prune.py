"""Latents that are rare or unsure are taken out of an SAE while it trains; the rest goes on without them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.core import ConfigError
from thoughtlens.sae.kinds.base import SAE, latents_together, some_latents

RARE = 0.4
"""A latent is rare that fires less often than this share of the average latent's firings."""
FAINT = 0.1
"""Share of all firings, the weakest ones, that count as faint."""
UNSURE = 0.3
"""A latent is unsure that has more than this share of its firings among the faint ones."""
ENOUGH = 200
"""Firings of the average latent that are looked at, where there are that many."""


class Pruned(NamedTuple):
    """What was left of an SAE."""

    latents: list[int]
    """Those that stay, as they were numbered before."""
    firings: float
    """The share of all firings that the others had."""


@torch.no_grad()
def prune(sae: SAE, rows: Iterable[tuple[Tensor, Tensor | None]]) -> Pruned:
    """Decide which latents stay, from how often and how strongly each fires.

    Nothing but activations is looked at. Where too few would stay for the architecture, all do.

    Args:
        sae: It is left as it is.
        rows: Raw activations and their cells, batch by batch; read until `ENOUGH` firings were seen.
    """
    latents, sizes, n = [], [], 0
    for x, cell in rows:
        found, size = _firings(sae.encode(x, cell))
        latents.append(found)
        sizes.append(size)
        n += len(found)
        if n >= ENOUGH * sae.d_sae:
            break
    everyone = Pruned(list(range(sae.d_sae)), 0.0)
    if not n:
        return everyone
    latent, size = torch.cat(latents), torch.cat(sizes)
    out = sae.revivable(rare_or_unsure(latent, size, sae.d_sae))
    kept = (~out).nonzero().squeeze(1)
    try:
        sae.cfg.model_copy(update={"d_sae": len(kept)}).check(sae.d_in)
    except ConfigError:
        return everyone
    return Pruned(kept.tolist(), float(out[latent].double().mean())) if len(kept) else everyone


def rare_or_unsure(
    latent: Int[Tensor, " firings"], size: Float[Tensor, " firings"], d_sae: int
) -> Bool[Tensor, " d_sae"]:
    """Which latents have few firings, or many faint ones: each firing's latent and strength are given."""
    fires = torch.bincount(latent, minlength=d_sae)
    bound = size.kthvalue(max(1, round(FAINT * len(size)))).values
    faint = torch.bincount(latent[size <= bound], minlength=d_sae)
    return (fires < RARE * len(latent) / d_sae) | (faint > UNSURE * fires)


def only(sae: SAE, latents: list[int]) -> SAE:
    """An SAE of some latents of another, with memory of its own for what each latent has."""
    part = some_latents(sae, torch.tensor(latents, device=sae.W_enc.device))
    part.cfg = sae.cfg.model_copy(update={"d_sae": len(latents)})
    latents_together(part)
    return part


def _firings(acts: Float[Tensor, "batch d_sae"]) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    row, latent = acts.nonzero(as_tuple=True)
    return latent, acts[row, latent].abs()
