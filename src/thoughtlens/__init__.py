"""thoughtlens: see what a language model is thinking.

Public names are loaded lazily, so that importing the package costs neither torch nor time.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__version__ = "0.1.0"

# Read when torch loads. Its threads spin while they wait for work: not at all slows a model's many short
# operations by a tenth, for long takes the cores from the kernels' own threads and from other programs.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

MODULES = (
    "baselines", "bench", "classify", "config", "distill", "doctor", "errors", "explain", "explanations",
    "explorer", "extract", "fire", "gates", "geometry", "grid", "hub", "interpret", "intervene", "kernels",
    "lens", "metrics", "models", "neuronpedia", "pipeline", "plots", "problems", "replay", "report", "sae",
    "serve", "stage", "store", "suites", "sweep", "tracking", "train", "training", "validate",
)  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    if name in MODULES:
        return importlib.import_module(f"thoughtlens.{name}")
    raise AttributeError(f"module 'thoughtlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *MODULES])
