"""Latents that write little are taken out of an SAE while it trains; the rest trains on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from thoughtlens.core import ConfigError
from thoughtlens.sae.kinds.base import SAE, latents_together, some_latents

LITTLE = 0.3
"""Of what the average latent writes, squares summed over the rows: those that write less go."""
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
    """Decide which latents stay, from how much each writes: how often, times how strongly squared.

    How rarely a latent fires is no reason by itself: one that stands for something rare and writes it
    strongly stays. Where too few would stay for the architecture, all do.

    Args:
        sae: It is left as it is.
        rows: Raw activations and their cells, batch by batch; read until `ENOUGH` firings were seen.
    """
    squares = sae.W_dec.flatten(1).double().square().sum(1)
    fires, written = torch.zeros_like(squares), torch.zeros_like(squares)
    for x, cell in rows:
        acts = sae.encode(x, cell).double()
        fires += (acts != 0).sum(0)
        written += acts.square().sum(0) * squares
        if fires.sum() >= ENOUGH * sae.d_sae:
            break
    out = sae.revivable(written < LITTLE * written.mean())
    kept = (~out).nonzero().squeeze(1).tolist()
    try:
        sae.cfg.model_copy(update={"d_sae": len(kept)}).check(sae.d_in)
    except ConfigError:
        return Pruned(list(range(sae.d_sae)), 0.0)
    return Pruned(kept, float(fires[out].sum() / fires.sum().clamp_min(1)))


def only(sae: SAE, latents: list[int]) -> SAE:
    """An SAE of some latents of another, with memory of its own for what each latent has."""
    part = some_latents(sae, torch.tensor(latents, device=sae.W_enc.device))
    part.cfg = sae.cfg.model_copy(update={"d_sae": len(latents)})
    latents_together(part)
    return part
