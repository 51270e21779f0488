"""Which language model, and how to load it."""

from __future__ import annotations

from typing import Literal

from thoughtlens.core import Config


class ModelConfig(Config):
    """Which model to load and how; the arguments of `models.hf.load.load`."""

    name: str = "smollm2-135m"
    """`smollm2-135m` (bundled), a model directory, a .gguf file, or a hub id."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """What the model computes in."""
    device: str = "cpu"
    """auto, cpu, cuda, cuda:1, mps."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
