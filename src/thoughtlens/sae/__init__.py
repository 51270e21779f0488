"""Sparse autoencoders: one file per architecture, all on `SAE`."""

from __future__ import annotations

from thoughtlens.sae.base import SAE, Batch, LossTerms, SAEConfig, SparseActs
from thoughtlens.sae.batchtopk import BatchTopKConfig, BatchTopKSAE
from thoughtlens.sae.crosscoder import Crosscoder, CrosscoderConfig
from thoughtlens.sae.gated import GatedConfig, GatedSAE
from thoughtlens.sae.io import load, load_members, save
from thoughtlens.sae.jumprelu import JumpReLUConfig, JumpReLUSAE
from thoughtlens.sae.matryoshka import MatryoshkaConfig, MatryoshkaSAE
from thoughtlens.sae.normalization import Cell, Normalization
from thoughtlens.sae.panneal import PAnnealConfig, PAnnealSAE
from thoughtlens.sae.persistence import Persistence, persistence
from thoughtlens.sae.registry import KINDS, AnySAEConfig, create
from thoughtlens.sae.relu import ReLUConfig, ReLUSAE
from thoughtlens.sae.supervised import SupervisedConfig, SupervisedSAE, encode_labels, labels_bought
from thoughtlens.sae.topk import TopKConfig, TopKSAE
from thoughtlens.sae.transcoder import Transcoder, TranscoderConfig

__all__ = [
    "KINDS",
    "SAE",
    "AnySAEConfig",
    "Batch",
    "BatchTopKConfig",
    "BatchTopKSAE",
    "Cell",
    "Crosscoder",
    "CrosscoderConfig",
    "GatedConfig",
    "GatedSAE",
    "JumpReLUConfig",
    "JumpReLUSAE",
    "LossTerms",
    "MatryoshkaConfig",
    "MatryoshkaSAE",
    "Normalization",
    "PAnnealConfig",
    "PAnnealSAE",
    "Persistence",
    "ReLUConfig",
    "ReLUSAE",
    "SAEConfig",
    "SparseActs",
    "SupervisedConfig",
    "SupervisedSAE",
    "TopKConfig",
    "TopKSAE",
    "Transcoder",
    "TranscoderConfig",
    "create",
    "encode_labels",
    "labels_bought",
    "load",
    "load_members",
    "persistence",
    "save",
]
