"""A new start for dead latents from rows that are reconstructed badly, an alternative to AuxK."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.sae.fit.adam import Adam
from thoughtlens.sae.kinds.base import SAE, Batch

UNTIL = 0.5
"""Share of a run after which nothing is resampled: later latents would not settle any more."""


@torch.no_grad()
def resample(
    sae: SAE,
    optimizer: Adam,
    batch: Batch,
    dead: Bool[Tensor, " d_sae"],
    generator: torch.Generator,
) -> int:
    """Point dead latents at rows that the SAE reconstructs badly (Bricken et al. 2023, "Neuron Resampling").

    Each dead latent draws a row with probability proportional to the square of its squared error. Its
    decoder row becomes that row's direction from the centre, with length 1; its encoder column the same
    direction; its bias is set so that the centre gives 0. The column gets 0.2 of the mean length of those
    alive, as in the paper, where latents do not compete, and all of it where they do: with less they
    would not be among the k largest even on their own row. Adam's moments of all it owns become 0.
    The paper draws from 819,200 rows; here they are the batch at hand.

    Args:
        sae: Changed in place.
        optimizer: Adam over its parameters.
        batch: Raw rows.
        dead: Latents to resample.
        generator: Draws the rows, on the CPU.

    Returns:
        How many latents were resampled: none where all are dead or the batch has no error.
    """
    idx = sae.revivable(dead).nonzero().squeeze(1)
    z, target = sae.normalize(batch.x, batch.cell).flatten(1), sae.target(batch).flatten(1)
    error = (target - sae.normalized_output(batch).flatten(1)).square().sum(1)
    odds = (error / error.max().clamp_min(torch.finfo(error.dtype).tiny)).square().double().cpu()
    if len(idx) == 0 or dead.all() or not odds.sum() > 0:
        return 0
    rows = torch.multinomial(odds, len(idx), replacement=True, generator=generator).to(z.device)
    columns = sae.W_enc.flatten(0, -2)
    centre = sae.b_dec.flatten() if sae.cfg.pre_bias else z.mean(0)
    centre_out = centre if batch.y is None else target.mean(0)
    read, written = _unit(z[rows] - centre), _unit(target[rows] - centre_out)
    columns[:, idx] = (sae.revived_gain * columns[:, ~dead].norm(dim=0).mean() * read).T
    sae.W_dec[idx] = written.view(-1, *sae.W_dec.shape[1:])
    sae.b_enc[idx] = 0 if sae.cfg.pre_bias else -(centre @ columns[:, idx])
    sae.revive(idx, ((z[rows] - centre) * columns[:, idx].T).sum(1))
    _forget(sae, optimizer, idx)
    return len(idx)


def _unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def _forget(sae: SAE, optimizer: Adam, idx: Int[Tensor, " n"]) -> None:
    """Set Adam's moments of some latents' parameters to 0."""
    for name, axis in sae.latent_axis.items():
        moments = optimizer.state[name]
        for moment in (moments.exp_avg, moments.exp_avg_sq):
            moment.index_fill_(axis, idx, 0)
