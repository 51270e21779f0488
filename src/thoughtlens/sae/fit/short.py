"""Training in memory: one SAE on one array of rows, for baselines and for SAEs of single folds."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import DataError
from thoughtlens.sae.fit.trainer import Settings, Trainer
from thoughtlens.sae.kinds.base import SAE
from thoughtlens.sae.kinds.config import SAEConfig
from thoughtlens.sae.kinds.normalization import Cell
from thoughtlens.sae.kinds.registry import create

SAMPLE_ROWS = 16_384
"""Rows that normalisation and initial bias are estimated from."""


def settings(
    cfg: SAEConfig,
    d_sae: int,
    n_rows: int,
    *,
    epochs: float,
    batch_size: int,
    seed: int,
    lr: float | None = None,
    warmup: float = 0.05,
    decay: float = 0.2,
    grad_clip: float = 1.0,
) -> Settings:
    """The numbers of a short run over `n_rows` rows; without `lr`, the architecture's for that length."""
    batch_size = min(batch_size, n_rows)
    n_steps = max(1, int(epochs * n_rows) // batch_size)
    lr = lr or cfg.default_lr(d_sae, n_steps)
    return Settings(
        n_steps=n_steps, batch_size=batch_size, lr=lr, warmup=warmup, decay=decay, grad_clip=grad_clip,
        dead_after_rows=max(1, n_steps * batch_size // 20), eval_every=n_steps, checkpoint_every_s=0.0,
        seed=seed,
    )  # fmt: skip


@torch.enable_grad()
def train_rows(
    cfg: SAEConfig,
    x: Float[Tensor, "n d_in"],
    cell: Int[Tensor, " n"],
    cells: list[Cell],
    s: Settings,
    *,
    frozen_decoder: bool = False,
) -> SAE:
    """An SAE trained on rows in memory, in a random order, the last batch of a pass left out.

    Args:
        cfg: Architecture.
        x: Raw activations.
        cell: Each row's index into `cells`.
        cells: (hook_name, thought_idx) pairs.
        s: Steps, batch, learning rate and seed.
        frozen_decoder: Keep the decoder's random directions and train the rest.

    Raises:
        DataError: the loss became NaN or Inf.
    """
    present, cell = torch.unique(cell, return_inverse=True)
    cells = [cells[i] for i in present.tolist()]
    sae = create(cfg, x.shape[1], seed=s.seed)
    sae.initialize(x[:SAMPLE_ROWS], cell[:SAMPLE_ROWS], cells)
    if frozen_decoder:
        sae.W_dec.requires_grad_(False)
    own = sae.cell_index(cells, cell)
    trainer, rng = Trainer(sae, s), np.random.default_rng(s.seed)
    while trainer.step_idx < s.n_steps:
        order = torch.from_numpy(rng.permutation(len(x)))
        for batch in order.split(s.batch_size)[: s.n_steps - trainer.step_idx]:
            if len(batch) == s.batch_size:
                _step(trainer, x[batch], None if own is None else own[batch])
    sae.hook_names = list(dict.fromkeys(hook for hook, _ in cells))
    return sae.requires_grad_(False)


def _step(trainer: Trainer, x: Tensor, cell: Tensor | None) -> None:
    try:
        trainer.step(x, cell)
    except FloatingPointError as error:
        raise DataError(
            f"Training stopped after {trainer.rows_seen:,} vectors: {error}; lower the learning rate"
        ) from None
