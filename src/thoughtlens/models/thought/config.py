"""What a thought model's checkpoint does not say of itself."""

from __future__ import annotations

from thoughtlens.core import Config


class ThoughtModelConfig(Config):
    """Settings beside the name of a thought model; each is for checkpoints that need it."""

    base: str | None = None
    """Thoughts: base model of a checkpoint that is not a published one; a directory or a hub id."""
    remove_eos: bool | None = None
    """Thoughts: whether no eos stands before CODI's thoughts; unset: as the checkpoint was trained."""
