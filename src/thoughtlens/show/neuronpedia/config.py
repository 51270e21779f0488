"""Which latents are written for Neuronpedia, and under which names."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config
from thoughtlens.show.neuronpedia.formats import MAX_LATENTS, MAX_LOGITS


class NeuronpediaConfig(Config):
    """Which latents to write, and under which names."""

    run: Path
    """The run's directory, its interpret stage finished."""
    member: str | None = None
    """Which SAE of several; unset: the only one."""
    model_id: str | None = None
    """Neuronpedia's name of the model, such as gpt2-small; unset: the last part of the model's name."""
    source_set: str | None = None
    """Name of the source set, without the layer; unset: `res`, `mlp` or `att` by the hook, and the width."""
    n_top: int = Field(20, ge=1)
    """Strongest examples of a latent at most."""
    n_logits: int = Field(10, ge=1, le=MAX_LOGITS)
    """Tokens that a latent speaks for, and against, at most."""
    per_batch: int = Field(MAX_LATENTS, ge=1, le=MAX_LATENTS)
    """Latents of a file."""
