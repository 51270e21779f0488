"""What to judge, on which rows, beside what."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from thoughtlens.core import Config
from thoughtlens.models import ModelConfig

BaselineName = Literal["pca_l0", "pca_live", "random", "mean", "cell_mean"]
BASELINES: tuple[BaselineName, ...] = ("pca_l0", "pca_live", "random", "mean", "cell_mean")


class ValidateConfig(Config):
    """What to judge, on which rows, beside what."""

    acts: Path
    """The activation store."""
    sae: Path
    """The SAE(s), trained on this store."""
    model: ModelConfig | None = None
    """The model to splice into; unset: the one that the store was extracted from."""
    split: str = "test"
    """Split whose rows are judged; never one that was trained on."""
    baselines: tuple[BaselineName, ...] = BASELINES
    """What to hold beside the SAE: pca_l0, pca_live (principal components, as many as the SAE's L0 or as
    it has live latents), random (an SAE that learned nothing), mean, cell_mean."""
    baseline_rows: int = Field(100_000, ge=2)
    """Training vectors that the baselines are fitted on, at most."""
    ce_tokens: int = Field(4096, ge=0)
    """Text: held-out tokens for cross-entropy and KL with x replaced; 0: leave that out."""
    answer_problems: int = Field(200, ge=0)
    """Thoughts: held-out problems, one per group, that are answered with x replaced; 0: leave that out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the SAE runs; auto: the GPU where there is one."""
    seed: int = Field(0, ge=0)
    """Seed of samples, of the random SAE and of the resampling."""
    force: bool = False
    """Give numbers even where they mean nothing; every reason is then among the warnings."""
