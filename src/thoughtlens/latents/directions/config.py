"""Which directions, and how they are read out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from thoughtlens.core import Config, ConfigError

Made = Literal["diffmean", "probe", "pca", "lens"]
READ_BY: Mapping[str, tuple[str, ...]] = {
    "label": ("diffmean", "probe"), "classes": ("diffmean", "probe"), "k": ("pca",), "tokens": ("lens",),
}  # fmt: skip
"""Settings that belong to some ways of making directions, and to no file."""


class DirectionsConfig(Config):
    """Directions of a file, or fitted on a store, as a dictionary that the stages read."""

    aliases: ClassVar[Mapping[str, str]] = {"from": "made", "name": "names", "token": "tokens"}

    acts: Path
    """The activation store that they are read out on."""
    file: Path | None = None
    """.npy or .safetensors with directions as rows, as wide as the hook."""
    made: Made | None = None
    """Instead of a file: differences of class means or ridge probes of `label` (diffmean, probe), principal
    components (pca), or what raises the logit of `tokens` (lens)."""
    names: tuple[str, ...] | None = Field(None, min_length=1)
    """A name for each direction of the file; unset: those that the file has."""
    label: str | None = None
    """diffmean, probe: label column of the problems; a direction for each of `classes` against the rest, of a
    number with many values one probe for its size."""
    classes: tuple[str, ...] | None = Field(None, min_length=1)
    """Values of `label`; unset: all of up to 12."""
    k: int = Field(8, ge=1)
    """pca: components, largest variance first."""
    tokens: tuple[str, ...] = ()
    """lens: words of the model's vocabulary."""
    translators: Path | None = None
    """lens: the lens stage whose tuned lens the tokens are read through, at the one thought of `thoughts`;
    unset: the logit lens."""
    hook: str | None = None
    """Hook at which they are read; unset: that of the file, or the only one of the store."""
    thoughts: tuple[int, ...] | None = Field(None, min_length=1)
    """Thoughts at which they are read; unset: those of the file, or all."""
    offset: float | None = Field(None, allow_inf_nan=False)
    """Projection that counts as 0; unset: what the file says, else the mean over the fitting rows."""
    share: float = Field(0.05, gt=0, lt=0.5)
    """A direction is active at one end on this share of the fitting rows, those that lie furthest out."""
    threshold: float | None = Field(None, ge=0, allow_inf_nan=False)
    """How far beyond the offset a projection must lie instead, at either end."""
    n_fit: int = Field(50_000, ge=10)
    """Rows of split train that offsets, thresholds and fitted directions come from, at most."""
    seed: int = Field(0, ge=0)
    """Seed of the draw of rows."""

    def require_source(self) -> None:
        """See that it is said what the directions are, in one way.

        Raises:
            ConfigError: it is not.
        """
        if (self.file is None) == (self.made is None):
            raise ConfigError(
                "Expected a file of directions, or from=diffmean, from=probe, from=pca or from=lens; one of "
                "them"
            )
        if self.made in ("diffmean", "probe") and self.label is None:
            raise ConfigError(f"from={self.made} needs the label that is read: label=COLUMN")
        if self.made == "lens" and not self.tokens:
            raise ConfigError("from=lens needs words of the vocabulary: tokens=[...]")
        for key, ways in READ_BY.items():
            if self.made not in ways and getattr(self, key) != type(self).model_fields[key].default:
                have = "a file of directions has" if self.made is None else f"from={self.made} has"
                raise ConfigError(f"{have} no setting {key}: it is of from={' and from='.join(ways)}")
