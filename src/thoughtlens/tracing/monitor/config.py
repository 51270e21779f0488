"""What the monitor reads, what it should notice, and what it is held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from thoughtlens.core import Config

Kind = Literal["wrong", "broken", "label"]
Rival = Literal["margin", "entropy", "text", "words", "begin"]
Error = Literal["swap", "noise", "exit"]


class MonitorConfig(Config):
    """Which problems are watched, and what the two scores of their thoughts should notice."""

    acts: Path
    """The activation store: its problems, and the model behind it."""
    truths: tuple[Kind, ...] | None = None
    """What there is to notice. `wrong`: answers of the model's own that are wrong. `broken`: answers broken
    at a known thought. `label`: a column of the problems. Unset: the first two, and `label` where one is
    named."""
    label: str | None = None
    """Column that says which problems hold something beyond what they answer, as `armed` of problems with a
    secret."""
    positive: str | None = None
    """Its value where they do; unset: true, of a column of true and false."""
    clean: str | None = None
    """Its value where they do not; unset: every other one."""
    where: tuple[str, ...] = ()
    """Of the label, only problems with these values of columns, such as release=keep or n_steps=2,3; several
    conditions hold together."""
    errors: tuple[Error, ...] = ("swap", "noise", "exit")
    """How answers are broken: by another problem's thought in the place of one, by noise as long as the
    thought is, by leaving early; each at thoughts in turn."""
    rivals: tuple[Rival, ...] = ("margin", "entropy", "text", "words", "begin")
    """What may tell as much more simply. `margin`: how far the answer's first token is ahead. `entropy`: of
    that token. The others are linear models that are shown which problems of `fit_split` are which: `text`,
    a bag of words and pairs of neighbours; `words`, single words and their places; `begin`, the state before
    any thought."""
    wordings: tuple[str, ...] | None = None
    """Columns that say how a problem is told, such as a name or a sentence pattern. Thresholds of `beyond`
    then come from clean problems whose wording it was not fitted on. Unset: those whose values most problems
    of `split` share with none of `fit_split`, while those of `threshold_split` do; `[]`: none."""
    split: str = "test"
    """Split whose problems are scored."""
    threshold_split: str = "validation"
    """Split whose clean problems set the thresholds."""
    fit_split: str = "train"
    """Split whose clean problems say what is usual, and that linear rivals are fitted on."""
    n: int = Field(1000, ge=2)
    """Problems of `split`, and of `threshold_split`, at most."""
    n_fit: int = Field(2000, ge=2)
    """Problems of `fit_split`, at most."""
    false_alarms: tuple[float, ...] = (0.01, 0.05)
    """Shares of clean problems that may be flagged; a threshold for each."""
    n_resamples: int = Field(2000, ge=100)
    """Resamples behind each interval."""
    batch_size: int = Field(256, ge=1)
    """Problems at a time."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer."""
    seed: int = Field(0, ge=0)
    """Fixes the choice of problems, the errors that are made, and the resamples."""

    @field_validator("where", mode="before")
    @classmethod
    def _one_condition(cls, text: Any) -> Any:
        return (text,) if isinstance(text, str) else text

    @model_validator(mode="after")
    def _whole(self) -> MonitorConfig:
        if wrong := [one for one in self.where if not all(one.partition("="))]:
            raise ValueError(f"where: expected COLUMN=VALUE, such as release=keep, got {wrong[0]!r}")
        named = self.positive or self.clean or self.where or "label" in (self.truths or ())
        if self.label is None and named:
            raise ValueError("label: name the column that says which problems hold something, label=COLUMN")
        if wrong := [one for one in self.false_alarms if not 0 < one < 1]:
            raise ValueError(f"false_alarms: expected shares between 0 and 1, got {wrong[0]}")
        if len({self.split, self.threshold_split, self.fit_split}) < 3:
            raise ValueError("split, threshold_split and fit_split: expected three different splits")
        return self

    @property
    def wanted(self) -> tuple[Kind, ...]:
        """What there is to notice."""
        if self.truths is not None:
            return self.truths
        return ("wrong", "broken") if self.label is None else ("wrong", "broken", "label")
