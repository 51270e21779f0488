"""What a sweep or a grid trains, complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from thoughtlens.core import Config
from thoughtlens.sae import GroupSize


class StudyConfig(Config):
    """Settings that are trained on one extraction."""

    acts: Path
    """The activation store that all settings share."""
    grid: tuple[str, ...] = ()
    """Axes, each `key=value,value`; every combination is a setting."""
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """Each setting is trained once for each: initial weights and order of rows."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """The tables `sae` and `train` of the recipe, as far as it sets them."""

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be different and not negative")
        return seeds


class SweepConfig(StudyConfig):
    """Settings to train and measure, and how one of them is recommended."""

    metric: Literal["auto", "fvu", "fvu_within"] = "auto"
    """What settings are chosen by. fvu: error over all held-out rows. fvu_within: centred in each (hook,
    thought) cell. auto: fvu_within where the rows come from several cells, else fvu."""
    rule: Literal["description", "knee", "best"] = "description"
    """description: of the settings that tell a row in the fewest bits (codes and residual, within 5 %) the
    widest. knee: where the front of L0 and FVU bends most. best: the lowest FVU."""
    precision: float = Field(0.3, gt=0, lt=1)
    """Mean squared error up to which a description is exact, as a share of the variance in its cell."""
    max_l0: float | None = Field(None, gt=0)
    """Largest L0 that is recommended; unset: d_in / 4, above which any dictionary reconstructs."""
    max_dead: float | None = Field(None, ge=0, le=1)
    """Largest share of dead latents that is recommended; unset: 10 % by knee and best, any by description,
    which pays for no latent that never fires."""
    fidelity: bool = False
    """Also run the model with its activations replaced: CE-loss score on text, right answers on thoughts."""
    ce_tokens: int = Field(4096, ge=1)
    """Held-out tokens behind a CE-loss score."""
    n_problems: int = Field(500, ge=2)
    """Held-out problems behind an accuracy with spliced thoughts, at most."""
    recovery: bool = True
    """Also say how many values of label columns each setting tells; it decides nothing."""
    skip_refused: bool = False
    """Leave out settings that cannot be trained, with the reason in their row, instead of refusing all."""


class GridConfig(StudyConfig):
    """Settings to train on every cell. Where the recipe does not set `train.members`, there is one SAE for
    each (hook, thought), on text one for each hook."""

    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Each setting is trained once for each: initial weights and order of rows."""
    group_size: GroupSize = "auto"
    """SAEs of one shape that are trained as one batched program; auto: as many as pays off and fits."""
