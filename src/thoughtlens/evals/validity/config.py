"""What to judge, and on what."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from thoughtlens.models import ThoughtModelConfig, known_accuracy
from thoughtlens.problems import ProblemsConfig, named


class GatesConfig(ThoughtModelConfig):
    """What to judge, and on what."""

    model: str = "codi-tiny"
    """A thought model: shipped name, directory of `distill`, hub repository, checkpoint."""
    seeds: tuple[int, ...] = ()
    """Seeds of a shipped model or of a `distill` directory; none: all there are."""
    n: int = Field(3000, ge=2)
    """Problems a seed, at most."""
    split: Literal["train", "validation", "test", "any"] = "test"
    """Split of the problems; `any` takes all."""
    problems: str = "generated"
    """`generated` (those that a shipped model was trained on), `gsm8k:test` (source and split), or a Parquet
    table of problems."""
    files: tuple[Path, ...] = ()
    """GSM8K's files; none: the hub."""
    sae: Path | None = None
    """SAEs of this model's thoughts, to splice in (G7)."""
    no_cot: str | None = None
    """Model trained without thoughts, where none is shipped beside the model."""
    pause: str | None = None
    """Model trained with pause tokens, where none is shipped beside the model."""
    modes: tuple[Literal["words", "direct"], ...] | None = None
    """Other ways of one and the same model to answer, beside its thoughts: a chain of thought in words, or
    directly; unset: those that it has."""
    published: float | None = Field(None, ge=0, le=1)
    """Accuracy that was published for this model on these problems, 0..1: reproduced first (G0). Unset:
    as known of published checkpoints (`models/thought/known.json`, with sources)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the model computes in."""
    device: str = "cpu"
    """auto, cpu, cuda, cuda:1, mps."""
    seed: int = Field(4242, ge=0)
    """Fixes problems and donors."""
    batch_size: int | None = Field(None, ge=1)
    """Problems at a time; unset: 512 for shipped models, 32 for others. A batch keeps the keys and values of
    its questions once for every pass."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer."""

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("seeds has a number twice")
        return seeds

    @model_validator(mode="after")
    def _controls_are_others(self) -> GatesConfig:
        for name in ("no_cot", "pause"):
            if getattr(self, name) == self.model:
                raise ValueError(
                    f"{name}: {self.model} is the model to judge; a control was trained otherwise"
                )
        return self


def problems_config(cfg: GatesConfig) -> ProblemsConfig:
    """The problems as other stages name them."""
    return named(cfg.problems.partition(":")[0], cfg.files)


def published(cfg: GatesConfig) -> float | None:
    """The accuracy to reproduce, if one is known."""
    return known_accuracy(cfg.model, cfg.problems) if cfg.published is None else cfg.published
