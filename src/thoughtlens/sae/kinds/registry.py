"""Which class trains which kind of config."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from thoughtlens.sae.base import SAE, SAEConfig
from thoughtlens.sae.kinds.batchtopk import BatchTopKConfig, BatchTopKSAE
from thoughtlens.sae.kinds.crosscoder import Crosscoder, CrosscoderConfig
from thoughtlens.sae.kinds.gated import GatedConfig, GatedSAE
from thoughtlens.sae.kinds.imported import ImportedConfig, ImportedSAE
from thoughtlens.sae.kinds.jumprelu import JumpReLUConfig, JumpReLUSAE
from thoughtlens.sae.kinds.matryoshka import MatryoshkaConfig, MatryoshkaSAE
from thoughtlens.sae.kinds.panneal import PAnnealConfig, PAnnealSAE
from thoughtlens.sae.kinds.relu import ReLUConfig, ReLUSAE
from thoughtlens.sae.kinds.supervised import SupervisedConfig, SupervisedSAE
from thoughtlens.sae.kinds.topk import TopKConfig, TopKSAE
from thoughtlens.sae.kinds.transcoder import Transcoder, TranscoderConfig

WEIGHTS = 0x5AE
"""Marks the random numbers that are initial weights."""

KINDS: dict[str, type[SAE]] = {
    "topk": TopKSAE,
    "relu": ReLUSAE,
    "p_anneal": PAnnealSAE,
    "gated": GatedSAE,
    "batchtopk": BatchTopKSAE,
    "jumprelu": JumpReLUSAE,
    "matryoshka": MatryoshkaSAE,
    "supervised": SupervisedSAE,
    "transcoder": Transcoder,
    "crosscoder": Crosscoder,
    "imported": ImportedSAE,
}
CONFIGS: dict[str, type[SAEConfig]] = {
    "topk": TopKConfig,
    "relu": ReLUConfig,
    "p_anneal": PAnnealConfig,
    "gated": GatedConfig,
    "batchtopk": BatchTopKConfig,
    "jumprelu": JumpReLUConfig,
    "matryoshka": MatryoshkaConfig,
    "supervised": SupervisedConfig,
    "transcoder": TranscoderConfig,
    "crosscoder": CrosscoderConfig,
    "imported": ImportedConfig,
}
AnySAEConfig = Annotated[
    TopKConfig
    | ReLUConfig
    | PAnnealConfig
    | GatedConfig
    | BatchTopKConfig
    | JumpReLUConfig
    | MatryoshkaConfig
    | SupervisedConfig
    | TranscoderConfig
    | CrosscoderConfig,
    Field(discriminator="kind"),
]


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
