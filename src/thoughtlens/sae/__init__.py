"""Sparse autoencoders: one file per architecture, all on `SAE`."""

from __future__ import annotations

from thoughtlens.sae.base import SAE, Batch, LossTerms, SAEConfig, SparseActs
from thoughtlens.sae.io import load, load_members, save
from thoughtlens.sae.normalization import Cell, Normalization
from thoughtlens.sae.registry import KINDS, AnySAEConfig, create
from thoughtlens.sae.relu import ReLUConfig, ReLUSAE
from thoughtlens.sae.topk import TopKConfig, TopKSAE

__all__ = [
    "KINDS",
    "SAE",
    "AnySAEConfig",
    "Batch",
    "Cell",
    "LossTerms",
    "Normalization",
    "ReLUConfig",
    "ReLUSAE",
    "SAEConfig",
    "SparseActs",
    "TopKConfig",
    "TopKSAE",
    "create",
    "load",
    "load_members",
    "save",
]
