"""One small config of every architecture, and rows of the shape that it takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.sae.toy import rows
from thoughtlens import sae as saes

D_IN, D_SAE = 6, 20
CONFIGS: list[saes.SAEConfig] = [
    saes.PAnnealConfig(d_sae=D_SAE),
    saes.GatedConfig(d_sae=D_SAE),
    saes.BatchTopKConfig(d_sae=D_SAE, k=3),
    saes.JumpReLUConfig(d_sae=D_SAE, target_l0=3),
    saes.MatryoshkaConfig(d_sae=D_SAE, k=3, prefixes=(0.25, 1.0)),
    saes.HierarchicalTopKConfig(d_sae=D_SAE, k=3, ks=(1, 3, 7)),
    saes.SupervisedConfig(d_sae=D_SAE, k=3, label_columns=("op",), label_classes=(("+", "-", "*"),)),
    saes.TranscoderConfig(d_sae=D_SAE, k=3),
    saes.TranscoderConfig(d_sae=D_SAE, k=3, skip=True),
    saes.CrosscoderConfig(d_sae=D_SAE, k=3, sites=("a:out", "b:out", "c:out")),
    saes.CrosscoderConfig(d_sae=D_SAE, k=3, sites=("a:out", "b:out"), sparsity="l1"),
]


def name(cfg: saes.SAEConfig) -> str:
    """For test ids."""
    return cfg.kind + ("-skip" if getattr(cfg, "skip", False) else "") + getattr(cfg, "sparsity", "")


def inputs(cfg: saes.SAEConfig, n: int, seed: int = 0) -> dict[str, Any]:
    """x and, where the architecture needs them, y and labels, float64."""
    if isinstance(cfg, saes.CrosscoderConfig):
        scales = torch.tensor([1.0, 30.0, 0.1], dtype=torch.float64)[: len(cfg.sites), None]
        return {"x": torch.stack([rows(n, D_IN, seed + i) for i in range(len(cfg.sites))], 1) * scales}
    found: dict[str, Any] = {"x": rows(n, D_IN, seed)}
    if isinstance(cfg, saes.TranscoderConfig):
        found["y"] = 7 * rows(n, 4, seed + 9) - 2
    if isinstance(cfg, saes.SupervisedConfig):
        found["labels"] = torch.arange(n)[:, None] % 4 - 1
    return found


def make(cfg: saes.SAEConfig, seed: int = 0, sample: dict[str, Any] | None = None) -> saes.SAE:
    """float64 with random parameters and thresholds; with a `sample`, also normalised by it."""
    d_out = 4 if isinstance(cfg, saes.TranscoderConfig) else None
    sae = saes.create(cfg, D_IN, seed=seed, d_out=d_out).double()
    if sample is not None:
        sae.initialize(sample["x"], sample.get("cell"), sample.get("cells", ()), sample.get("y"))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for key, parameter in sae.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise.abs() if key == "threshold" else noise)
        if "threshold" in dict(sae.named_buffers()):
            sae.threshold.fill_(0.7)
    sae.normalize_decoder()
    return sae


def flat(x: Tensor) -> Tensor:
    """One row per row, sites side by side."""
    return x.reshape(len(x), -1)
