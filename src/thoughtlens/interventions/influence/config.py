"""Which thoughts are edited, how, and where the change is looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from thoughtlens.core import Config
from thoughtlens.interventions.intervene.config import edit_of

Part = Literal["thought_in", "resid", "thought_out", "kv", "keys", "values", "all"]
Chain = Literal["thoughts", "words", "pause"]


class InfluenceConfig(Config):
    """Which thoughts are edited, how, and where the change is looked for."""

    acts: Path
    """The activation store, whose model and problems are taken."""
    edits: tuple[str, ...] = Field(("ablate mean", "ablate resample", "patch start"), min_length=1)
    """What a thought becomes: `ablate mean` or `ablate resample` (another problem's), `patch` from twins that
    differ in `start`, `op1`, `op2` or `op3`. Those that the problems do not allow are left out, and the
    result says why. As large a change in random directions stands beside each."""
    sites: tuple[Part, ...] = Field(("thought_out", "kv", "all"), min_length=1)
    """Parts of a thought that are edited: thought_out, what it feeds back; kv, the keys and values that it
    leaves in every block; all of that at once; or keys, values, thought_in, resid."""
    thoughts: tuple[int, ...] | None = Field(None, min_length=1)
    """Thoughts that are edited, 0 the begin-of-thought position; unset: all."""
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    """Blocks in whose output the change is measured, counted from 0; unset: those of the store's hooks."""
    chains: tuple[Chain, ...] = Field(("thoughts", "words", "pause"), min_length=1)
    """Whose chain: the thoughts; beside it, where there is one, the chain of thought in words of the same
    model, token by token; and the model of the same seed that was trained with pause tokens."""
    n_words: int | None = Field(None, ge=1)
    """Tokens of the chain in words, at most; unset: as many as there are thoughts."""
    pause: str | None = None
    """The control model, where none lies beside the model: a directory, or what `model` may name."""
    n: int = Field(200, ge=2)
    """Problems of each edit, at most."""
    split: Literal["train", "validation", "test", "any"] = "test"
    """Split of the problems."""
    seed: int = Field(0, ge=0)
    """Fixes problems, donors and random directions."""
    batch_size: int = Field(256, ge=1)
    """Problems at a time."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer."""

    @field_validator("edits")
    @classmethod
    def _known(cls, edits: tuple[str, ...]) -> tuple[str, ...]:
        for edit in edits:
            table = edit_of(edit)
            if table["kind"] == "swap" or table.get("method") == "zero":
                raise ValueError(
                    f"expected 'ablate mean', 'ablate resample' or such as 'patch op1', got {edit!r}"
                )
        return edits

    @field_validator("edits", "sites", "chains")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"expected each once, got {', '.join(names)}")
        return names
