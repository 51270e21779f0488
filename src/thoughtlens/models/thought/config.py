"""What a thought model's checkpoint may not say of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from thoughtlens.core import Config, Json


class ThoughtModelConfig(Config):
    """Settings beside the name of a thought model; what is unset is as the checkpoint itself says."""

    aliases: ClassVar[Mapping[str, str]] = {"n_steps": "n_thoughts"}

    family: str | None = None
    """Thoughts: what kind of model it is: tiny, codi, coconut, colar, soft (any causal language model that
    then thinks in soft tokens), one that an installed package registers, or code of yours
    (`my_module:load`) that takes the model's name; unset: told from name and weights."""
    options: tuple[str, ...] = ()
    """Thoughts: further arguments of the family's loader, as `name=value`."""
    base: str | None = None
    """Thoughts: base model of a checkpoint that is not a published one; a directory or a hub id."""
    n_thoughts: int | None = Field(None, ge=0, le=4096)
    """Thoughts: how many it thinks, at most; unset: as the checkpoint says, else 6, of CoLaR 64, of soft
    tokens 32."""
    eos_before: bool | None = None
    """Thoughts: whether an eos stands between question and CODI's thoughts; unset: as the checkpoint was
    trained, else false."""
    eos_after: bool | None = None
    """Thoughts: whether an eos follows the end-of-thought token, before CODI's answer; unset likewise."""
    lora_alpha: float | None = None
    """Thoughts: LoRA's alpha of CODI's training; unset: as the checkpoint says, else 32."""
    projection: bool | None = None
    """Thoughts: false for a CODI that feeds its state back as it is; unset: as the checkpoint says, else
    true."""
    prompt: str | None = Field(None, pattern=r"\{question\}")
    """Thoughts: what is read for a question, `{question}` for the question as it stands. Unset: as the family
    was evaluated: CODI's questions without double spaces, Coconut's with a line end."""

    def thought_options(self) -> Json:
        """The settings that are set, as `models.thought.thoughts.load` takes them."""
        said = self.model_dump(include=set(ThoughtModelConfig.model_fields), exclude_none=True)
        return {name: value for name, value in said.items() if value != ()}
