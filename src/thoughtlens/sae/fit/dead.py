"""Which latents have stopped firing."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class DeadTracker:
    """Rows since each latent last fired; dead after `dead_after_rows` of them.

    Counted in rows seen, not in steps, so that batch size does not change what dead means.
    """

    def __init__(self, d_sae: int, dead_after_rows: int, device: torch.device | str = "cpu"):
        self.dead_after_rows = dead_after_rows
        self.silent_rows = torch.zeros(d_sae, dtype=torch.long, device=device)

    def update(self, counts: Int[Tensor, " d_sae"], n_rows: int) -> None:
        """Count a batch of `n_rows` rows on which latent i fired `counts[i]` times."""
        self.silent_rows += n_rows
        self.silent_rows.masked_fill_(counts > 0, 0)  # by index a GPU would be waited for

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Latents silent for `dead_after_rows` rows or more."""
        return self.silent_rows >= self.dead_after_rows
