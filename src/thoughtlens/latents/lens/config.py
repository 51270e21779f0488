"""What the lens stage reads, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from thoughtlens.core import Config

LensName = Literal["logit", "tuned"]


class LensConfig(Config):
    """Which states are read through the model's output side, and what they are compared with."""

    acts: Path
    """The activation store."""
    sae: Path | None = None
    """SAE(s) whose decoder rows are read too; unset: none."""
    lenses: tuple[LensName, ...] = Field(("logit", "tuned"), min_length=1)
    """`logit`: final norm and unembedding. `tuned`: an affine translator for each layer and thought before
    them, for stores of thoughts."""
    split: str = "test"
    """Split whose readings are scored; translators never see it."""
    fit_split: str = "train"
    """Split that translators are fitted on."""
    columns: tuple[str, ...] | None = None
    """Label columns that are compared with the readings; unset: v1, v2, .., op1, op2, .. and answer, as far
    as the problems have them and the model has single tokens for them."""
    n_problems: int = Field(2000, ge=2)
    """Problems (documents) that are read, at most."""
    max_rows: int = Field(20_000, ge=2)
    """Text: rows that are read, at most."""
    n_fit: int = Field(4000, ge=20)
    """Problems that translators are fitted on, at most; the last tenth of them chooses when to stop."""
    fit_steps: int = Field(600, ge=1)
    """Steps of Adam for each translator."""
    fit_batch: int = Field(256, ge=1)
    """Rows of a step."""
    fit_lr: float = Field(0.1, gt=0)
    """Learning rate times sqrt(d); falls linearly to 0."""
    top_k: int = Field(5, ge=1)
    """Tokens kept of each reading."""
    latent_tokens: int = Field(10, ge=1)
    """Tokens kept of each decoder row, for either sign."""
    n_permutations: int = Field(200, ge=20)
    """Shuffles of the labels behind every null."""
    seed: int = Field(0, ge=0)
    """Fixes the choice of problems, the fit and the shuffles."""
