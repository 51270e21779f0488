"""Which latents of a crosscoder persist, appear and vanish along its sites."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtlens.core import ConfigError, MismatchError
from thoughtlens.sae.kinds.crosscoder import Crosscoder


@dataclass(frozen=True)
class Persistence:
    """Where along the sites each latent lives. All in normalised units."""

    sites: tuple[str, ...]
    norms: Float[Tensor, "d_sae n_sites"]
    """Length of what the latent writes at each site, per unit of activation."""
    share: Float[Tensor, "d_sae n_sites"]
    """`norms` over the latent's largest."""
    mean_act: Float[Tensor, " d_sae"] | None
    """Mean activation on the rows where the latent fires, 0 where it never does; None without rows."""
    density: Float[Tensor, " d_sae"] | None
    """Share of the rows on which the latent fires; None without rows."""
    present: Bool[Tensor, "d_sae n_sites"]
    """Whether `share` reaches the bound; where rows were given, never for a latent that did not fire."""
    status: list[str]
    """Per latent: `persists` (present at all sites), `appears` (from some site to the last), `vanishes`
    (from the first to some site), `passing` (an unbroken stretch inside), `returns` (with a gap),
    `silent` (given rows, did not fire)."""

    @property
    def written(self) -> Float[Tensor, "d_sae n_sites"]:
        """Mean length the latent adds to each site of a row on which it fires.

        Raises:
            MismatchError: no rows were given.
        """
        if self.mean_act is None:
            raise MismatchError(
                "Persistence.written needs activations: expected persistence(sae, x), got no x"
            )
        return self.norms * self.mean_act[:, None]


@torch.no_grad()
def persistence(
    sae: Crosscoder, x: Float[Tensor, "n n_sites d_in"] | None = None, bound: float = 0.3
) -> Persistence:
    """Which latents persist, appear and vanish along the sites (layers, or successive thoughts).

    Args:
        sae: The crosscoder.
        x: Raw rows that say which latents fire at all, and how strongly.
        bound: Least decoder norm, relative to the latent's largest, at which it counts as present.

    Raises:
        ConfigError: `bound` outside (0, 1].
    """
    if x is None:
        return placed(sae, None, None, bound)
    acts = sae.encode(x)
    n_fired = (acts > 0).sum(0)
    return placed(sae, acts.sum(0) / n_fired.clamp_min(1), n_fired / len(x), bound)


@torch.no_grad()
def placed(
    sae: Crosscoder,
    mean_act: Float[Tensor, " d_sae"] | None,
    density: Float[Tensor, " d_sae"] | None,
    bound: float = 0.3,
) -> Persistence:
    """`persistence` from what is known of the latents already: mean activation where they fire, density.

    Raises:
        ConfigError: `bound` outside (0, 1].
    """
    if not 0 < bound <= 1:
        raise ConfigError(f"bound: expected a share in (0, 1], got {bound}")
    norms = sae.W_dec.norm(dim=-1)
    share = norms / norms.amax(1, keepdim=True).clamp_min(torch.finfo(norms.dtype).tiny)
    present = share >= bound
    if density is not None:
        present = present & (density > 0)[:, None]
    status = [_status(row) for row in present.tolist()]
    return Persistence(sae.cfg.sites, norms, share, mean_act, density, present, status)


def _status(present: list[bool]) -> str:
    if not any(present):
        return "silent"
    first, last = present.index(True), len(present) - 1 - present[::-1].index(True)
    if not all(present[first : last + 1]):
        return "returns"
    if first == 0:
        return "persists" if last == len(present) - 1 else "vanishes"
    return "appears" if last == len(present) - 1 else "passing"
