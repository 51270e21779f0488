"""Which class trains which kind of config."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from thoughtlens.sae.base import SAE, SAEConfig
from thoughtlens.sae.relu import ReLUConfig, ReLUSAE
from thoughtlens.sae.topk import TopKConfig, TopKSAE

KINDS: dict[str, type[SAE]] = {"topk": TopKSAE, "relu": ReLUSAE}
CONFIGS: dict[str, type[SAEConfig]] = {"topk": TopKConfig, "relu": ReLUConfig}
AnySAEConfig = Annotated[TopKConfig | ReLUConfig, Field(discriminator="kind")]


def create(cfg: SAEConfig, d_in: int, *, seed: int) -> SAE:
    """A new SAE with random weights, a function of config, width and seed.

    Raises:
        ConfigError: the config cannot be used on this width (k above d_sae, ...).
    """
    sae = KINDS[cfg.kind](cfg, d_in)  # type: ignore[attr-defined]
    sae.reset_parameters(torch.Generator().manual_seed(seed))
    return sae
