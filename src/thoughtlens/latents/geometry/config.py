"""Which SAEs are compared, and by what."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from thoughtlens.core import Config


class GeometryConfig(Config):
    """Nearest latents within each SAE, and how far SAEs share their latents."""

    sae: Path
    """The SAE(s)."""
    acts: Path | None = None
    """The activation store of `sae`; unset: decoders only, and dead latents count."""
    others: tuple[Path, ...] = ()
    """SAE(s) of other seeds, layers or models, each compared with `sae`; unset: the members of `sae` among
    themselves."""
    other_acts: tuple[Path, ...] = ()
    """The store of each of `others`; unset: `acts` for all of them."""
    members: tuple[str, ...] = ()
    """Members to take from every directory; unset: all."""
    pairs: Literal["same_name", "all"] = "same_name"
    """Which members of two directories are compared: those of the same name, or all with all."""
    by: tuple[Literal["decoder", "activation"], ...] | None = Field(None, min_length=1)
    """decoder: cosine of directions, for SAEs of one model and width. activation: correlation over the
    problems that both stores hold. Unset: whatever the inputs allow; members of one directory by decoder."""
    unit: Literal["problem", "row"] = "problem"
    """activation: one number per problem (its thoughts or tokens pooled), or one for each row that both
    stores have (the same thought, or the same position of the same tokens)."""
    pool: Literal["mean", "max"] = "mean"
    """How a latent's activations on the vectors of one unit become one number."""
    split: str | None = "test"
    """activation: split of the problems; unset: all."""
    n_units: int = Field(2000, ge=8)
    """activation: units at most; half of their groups choose the match, the other half scores it."""
    same_questions: bool = True
    """activation: refuse problems that have the same id and another text."""
    k: int = Field(8, ge=1)
    """Nearest latents listed for each latent."""
    n_permutations: int = Field(200, ge=20)
    """activation: shuffles of the held-out units behind p."""
    batch_size: int = Field(4096, ge=1)
    """Rows encoded at a time."""
    seed: int = Field(0, ge=0)
    """Fixes chance directions, the halves and the shuffles."""

    @model_validator(mode="after")
    def _matching(self) -> GeometryConfig:
        if self.other_acts and len(self.other_acts) != len(self.others):
            raise ValueError(
                f"other_acts: expected one store for each of {len(self.others)} others, "
                f"got {len(self.other_acts)}"
            )
        if self.other_acts and self.acts is None:
            raise ValueError("other_acts: give acts too, the store of the first SAE")
        return self
