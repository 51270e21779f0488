"""What the interpret stage collects."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config


class InterpretConfig(Config):
    """What to collect about each latent."""

    acts: Path
    """The activation store."""
    sae: Path
    """The SAE(s), trained on it or on a store with the same hooks."""
    split: str | None = None
    """Split whose rows are read; unset: all. Statistics and examples come from these rows."""
    top_k: int = Field(20, ge=1)
    """Examples kept for each latent."""
    per_decile: int = Field(3, ge=0)
    """Firings drawn at random from each tenth of a latent's activations; 0: none."""
    context_before: int = Field(16, ge=0)
    """Tokens shown before an example's strongest token."""
    context_after: int = Field(8, ge=0)
    """Tokens shown after it."""
    top_tokens: int = Field(10, ge=1)
    """Preferred tokens kept for each latent, and words of the reasoning text."""
    coactive: int = Field(10, ge=0)
    """Latents kept that fire most on the same vectors; 0: none."""
    min_units: int = Field(10, ge=2)
    """Problems in which a latent must fire for its preferences to be tested."""
    min_token_fires: int = Field(10, ge=1)
    """Firings of a latent on a token below which that pair is not tested."""
    labels: tuple[str, ...] | None = None
    """Label columns of the problems; unset: all."""
    max_levels: int = Field(12, ge=2)
    """Values of a label column up to which each is a level. Of one with more, those of at least `min_units`
    problems are (the 64 most frequent), all others share a level; numbers of which some would share it are
    put into this many bins, and all numbers with more are tested by their rank and their value as well."""
    max_words: int = Field(128, ge=0)
    """Words of the reasoning text (column `cot`) that are tested: the most frequent ones that at least
    `min_units` problems have and as many have not; 0: none."""
    n_permutations: int = Field(200, ge=1)
    """Permutations behind `q_value` and `p_max`."""
    text_permutations: int = Field(30, ge=1)
    """The same for tokens and words, of which there are many more."""
    everywhere_density: float = Field(0.5, gt=0, le=1)
    """Density above which a latent counts as firing everywhere."""
    batch_size: int = Field(4096, ge=1)
    """Rows read at a time; a longer document is read whole."""
    present_share: float = Field(0.3, gt=0, le=1)
    """Crosscoders: least length that a latent writes at a site, as a share of its largest, at which it counts
    as present there."""
    codes: bool = True
    """Keep the sparse codes: what explanations and the explorer read. They take 16 bytes for each
    firing, less than the bfloat16 vectors they were computed from where L0 is below an eighth of d_in."""
    codes_parquet: bool = False
    """Keep them as one Parquet table for each member too, for other programs."""
    seed: int = Field(0, ge=0)
    """Seed of the permutations and samples."""
