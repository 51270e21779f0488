"""Latents that write little are taken out of a trained SAE; the others stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from thoughtlens.core import ConfigError
from thoughtlens.sae.fit.shared import some_latents
from thoughtlens.sae.kinds.base import SAE, Batch, latents_together

SPARED = 0.2
"""So much of the error, or of all that is written where that is less, those that go may write together."""
ENOUGH = 200
"""Firings of the average latent that are looked at, where there are that many."""


class Pruned(NamedTuple):
    """What was left of an SAE."""

    latents: list[int]
    """Those that stay, as they were numbered before."""
    firings: float
    """The share of all firings that the others had."""


@torch.no_grad()
def prune(sae: SAE, batches: Iterable[Batch]) -> Pruned:
    """Decide which latents go: those that write least, as many as the error can bear.

    What a latent writes is its activation times its decoder row. Squares are summed over the rows, so that
    one that fires rarely and writes strongly stays. Since an error is nearly orthogonal to what is written,
    without them it is larger by about `SPARED` at most. Where too few would stay for the architecture, all
    do.

    Args:
        sae: It is left as it is.
        batches: Read until `ENOUGH` firings were seen.
    """
    squares = sae.W_dec.flatten(1).double().square().sum(1)
    fires, written, left = torch.zeros_like(squares), torch.zeros_like(squares), 0.0
    for batch in batches:
        acts = sae.encode(batch.x, batch.cell).double()
        fires += (acts != 0).sum(0)
        written += acts.square().sum(0) * squares
        left += (sae.target(batch) - sae.normalized_output(batch)).double().square().sum()
        if fires.sum() >= ENOUGH * sae.d_sae:
            break
    order = written.argsort(stable=True)
    out = torch.zeros(sae.d_sae, dtype=torch.bool, device=order.device)
    out[order[written[order].cumsum(0) <= SPARED * min(left, written.sum())]] = True
    out = sae.revivable(out)
    kept = (~out).nonzero().squeeze(1).tolist()
    if not kept or not _fits(sae, len(kept)):
        return Pruned(list(range(sae.d_sae)), 0.0)
    return Pruned(kept, float(fires[out].sum() / fires.sum().clamp_min(1)))


def _fits(sae: SAE, n: int) -> bool:
    """Whether an SAE of this kind can have so few latents."""
    try:
        sae.cfg.model_copy(update={"d_sae": n}).check(sae.d_in)
    except ConfigError:
        return False
    return True


def only(sae: SAE, latents: list[int]) -> SAE:
    """An SAE of some latents of another, with memory of its own for what each latent has."""
    part = some_latents(sae, torch.tensor(latents, device=sae.W_enc.device))
    part.cfg = sae.cfg.model_copy(update={"d_sae": len(latents)})
    latents_together(part)
    return part
