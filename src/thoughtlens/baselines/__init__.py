"""What every claim is held against; baselines of reconstruction have the SAE's interface."""

from __future__ import annotations

import importlib
from typing import Any

HOME = {
    "Baseline": "base", "Identity": "base", "MeanPredictor": "base", "PCA": "pca", "Covariance": "pca",
    "RandomSAE": "random_sae",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in HOME:
        return getattr(importlib.import_module(f"thoughtlens.baselines.{HOME[name]}"), name)
    raise AttributeError(f"module 'thoughtlens.baselines' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *HOME])
