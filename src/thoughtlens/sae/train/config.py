"""How SAEs are trained: the train stage's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from thoughtlens.core import Config
from thoughtlens.sae.kinds.config import AnySAEConfig, TopKConfig

GroupSize = Literal["auto"] | Annotated[int, Field(ge=1)]
Parallel = Literal["auto", "members", "data", "latents"]
Partition = Literal["pooled", "per_layer", "per_thought", "per_cell"]
Dtype = Literal["float32", "bfloat16"]


class TrainConfig(Config):
    """How SAEs are trained on an activation store."""

    acts: Path
    """The activation store."""
    sae: AnySAEConfig = TopKConfig()
    """Architecture, by `kind`, and its settings."""
    members: tuple[Partition, ...] = Field(default=("pooled",), min_length=1)
    """pooled: one SAE on all rows. per_layer, per_thought, per_cell: one SAE for each hook, each
    thought, each pair of both. Several: all of these."""
    hook_names: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Hooks to train on; unset: all in the store."""
    thoughts: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Values of thought_idx to train on; unset: all."""
    split: str = "train"
    """Split whose rows are trained on."""
    validation_split: str = "validation"
    """Split whose rows are measured during training; never trained on."""
    drop_outliers: bool = True
    """Leave out positions flagged at extraction for their massive norm."""
    epochs: float = Field(default=4.0, gt=0)
    """Passes over the rows, used where `n_vectors` is unset."""
    n_vectors: int | None = Field(default=None, ge=1)
    """Vectors to train on in all, over as many passes as that takes."""
    batch_size: int = Field(default=2048, ge=2)
    """Vectors per optimizer step, two or more since the loss is divided by their variance; of an SAE among
    several that has fewer vectors, a tenth of those."""
    lr: float | None = Field(default=None, gt=0)
    """Adam's learning rate; unset: a default for the number of latents and of steps."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the run over which the learning rate rises from 0."""
    decay: float = Field(default=0.2, ge=0, le=1)
    """Share of the run, at its end, over which the learning rate falls to 0."""
    grad_clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0: not clipped."""
    dtype: Dtype = "float32"
    """dtype of the encoder's matrix product; weights and optimizer are float32 always."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, order of rows, and samples."""
    dead_after_rows: int | None = Field(default=None, ge=1)
    """Vectors without firing after which a latent is dead; unset: 1,000,000, or 5 % of a shorter run."""
    resample_every: int | None = Field(default=None, ge=1)
    """Vectors between resamplings of dead latents during the first half of the run, an alternative to
    sae.auxk; unset: never."""
    prune: bool = False
    """Take the latents that write least out of a trained SAE, as many as together write at most a fifth of
    its error, squares summed."""
    sample_rows: int = Field(default=16384, ge=2)
    """Training vectors that normalisation and initial bias are estimated from."""
    evaluations: int = Field(default=20, ge=1)
    """Measurements over the run."""
    eval_rows: int = Field(default=2048, ge=2)
    """Vectors of each split that a measurement takes."""
    checkpoint_every_s: float = Field(default=60.0, ge=0)
    """Seconds between checkpoints."""
    group_size: GroupSize = "auto"
    """SAEs of one shape that are trained as one batched program; auto: as many as pays off and fits."""
    parallel: Parallel = "auto"
    """What the processes that torchrun starts share. members: each trains other SAEs. data: each takes a
    part of every batch. latents: each holds a part of the latents (topk). auto: members where there are
    several SAEs, else data."""

    @field_validator("members", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if len(set(self.members)) < len(self.members):
            raise ValueError(f"members names a partition twice: {list(self.members)}")
        if self.split == self.validation_split:
            raise ValueError(f"split and validation_split are both {self.split!r}; measure on other rows")
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay must not exceed 1, got {self.warmup} + {self.decay}")
        return self
