"""Which class trains which kind of config."""

from __future__ import annotations

import numpy as np
import torch

from thoughtlens.sae.kinds.base import SAE
from thoughtlens.sae.kinds.batchtopk import BatchTopKSAE
from thoughtlens.sae.kinds.config import SAEConfig
from thoughtlens.sae.kinds.crosscoder import Crosscoder
from thoughtlens.sae.kinds.gated import GatedSAE
from thoughtlens.sae.kinds.hierarchical import HierarchicalTopKSAE
from thoughtlens.sae.kinds.imported import ImportedSAE
from thoughtlens.sae.kinds.jumprelu import JumpReLUSAE
from thoughtlens.sae.kinds.matryoshka import MatryoshkaSAE
from thoughtlens.sae.kinds.panneal import PAnnealSAE
from thoughtlens.sae.kinds.relu import ReLUSAE
from thoughtlens.sae.kinds.supervised import SupervisedSAE
from thoughtlens.sae.kinds.topk import TopKSAE
from thoughtlens.sae.kinds.transcoder import Transcoder

WEIGHTS = 0x5AE
"""Marks the random numbers that are initial weights."""

KINDS: dict[str, type[SAE]] = {
    sae.kind: sae
    for sae in (
        TopKSAE, ReLUSAE, PAnnealSAE, GatedSAE, BatchTopKSAE, JumpReLUSAE, MatryoshkaSAE,
        HierarchicalTopKSAE, SupervisedSAE, Transcoder, Crosscoder, ImportedSAE,
    )
}  # fmt: skip
"""By kind."""


def create(cfg: SAEConfig, d_in: int, *, seed: int, d_out: int | None = None) -> SAE:
    """A new SAE with random weights, a function of config, widths and seed; unset, d_out is d_in.

    Raises:
        ConfigError: the config cannot be used on this width (k above d_sae, ...).
    """
    sae = KINDS[cfg.kind](cfg, d_in, d_out)  # type: ignore[attr-defined]
    sae.reset_parameters(torch.Generator().manual_seed(_stream(seed)))
    return sae


def _stream(seed: int) -> int:
    """A seed of the weights' own, so that data drawn after `manual_seed(seed)` are not the weights again."""
    return int(np.random.SeedSequence([seed, WEIGHTS]).generate_state(1, np.uint64)[0] >> 1)
