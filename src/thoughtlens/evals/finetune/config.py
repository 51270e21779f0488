"""Which SAE is trained further end to end, how long, and on what it is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from thoughtlens.core import Config
from thoughtlens.models import ModelConfig


class FinetuneConfig(Config):
    """Which SAE is trained further end to end, how long, and on what it is judged."""

    acts: Path
    """The activation store."""
    sae: Path
    """The SAE directory."""
    member: str | None = None
    """Which SAE; unset: the pooled one, or the first."""
    model: ModelConfig | None = None
    """The model to splice into; unset: the one that the store was extracted from."""
    steps: int = Field(100, ge=1)
    """Optimizer steps, each on about 1,024 tokens of text, or on `batch_problems` problems."""
    batch_problems: int = Field(64, ge=2)
    """Thoughts: problems in a step."""
    mse: float = Field(1.0, ge=0)
    """Weight of the squared error beside the divergence, both brought to one size; 0: divergence alone."""
    lr: float | None = Field(None, gt=0)
    """Adam's learning rate, of both arms; unset: a long run's for the number of latents. It falls to 0."""
    split: str = "test"
    """Split whose text or problems are judged; never one that was trained on."""
    ce_tokens: int = Field(8192, ge=2)
    """Text: held-out tokens that are judged."""
    answer_problems: int = Field(400, ge=2)
    """Thoughts: held-out problems that are judged, one per group."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the SAE runs; auto: the GPU where there is one."""
    seed: int = Field(0, ge=0)
    """Seed of texts, problems, their order, and resampling."""
