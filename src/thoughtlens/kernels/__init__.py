"""Numerical kernels, chosen per call by device and dtype; `reference` defines them."""

from __future__ import annotations

from thoughtlens.kernels.reference import decode, linear, topk

__all__ = ["decode", "linear", "topk"]
