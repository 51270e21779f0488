"""Which files hold the activations, and which of their columns says what."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from thoughtlens.core import Config


class ColumnsConfig(Config):
    """Names of columns in the files; unset: recognised by their usual names."""

    vectors: tuple[str, ...] = ()
    """Arrays of activations; several of one shape are hooks of these names. None: all floating ones."""
    problem: str | None = None
    """The problem or document that a row belongs to: `problem_id`, `problem`, `document`, `id`, ..."""
    hook: str | None = None
    """Where a row was read: `hook_name`, `hook`, `layer`; for an array with an axis of hooks, their names."""
    thought: str | None = None
    """The thought of a row: `thought_idx`, `thought`."""
    position: str | None = None
    """Of texts: the place of a row's token in its document, `position`."""
    token_id: str | None = None
    """Of texts: the id of a row's token, `token_id`."""
    group: str | None = None
    """Problems that must not be in two splits: `group_id`, `group`."""
    split: str | None = None
    """train, validation or test: `split`."""
    question: str | None = None
    """The problem's text: `question`, `text`, `prompt`."""
    answer: str | None = None
    """The right answer: `answer`."""
    labels: tuple[str, ...] | None = None
    """Further columns to keep; unset: all of them."""


class ImportConfig(Config):
    """Activations of one's own, and what their rows are."""

    files: tuple[Path, ...] = ()
    """.pt, .npy, .npz, .safetensors, .parquet, .h5, .arrow, .jsonl, .json, .csv, or the directory of an Arrow
    data set. Several with arrays are parts, one after the other; those without are tables, joined by the
    columns of problem (and hook, thought, position) that both have, else line by line."""
    content: str | None = None
    """Digest of arrays that were given in memory, in place of files."""
    columns: ColumnsConfig = ColumnsConfig()
    """Which column says what."""
    axes: tuple[Literal["problem", "hook", "thought"], ...] = ()
    """What the axes of an array before the last one are; none: rows of one with two, problem, hook,
    thought of one with four."""
    first_thought: Literal[0, 1] | None = None
    """The number that the files give the first vector that was fed back. Where it is 1, number 0 is the
    begin-of-thought position; where it is 0, that position is not there. In a store it is always 1."""
    hook: tuple[str, ...] = ()
    """What a hook of the files is in the model: `early=layers.3:out`."""
    model: str | None = None
    """Name of the model, if it is to be shown; weights nobody compared."""
    store_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Number format on disk; unset: that of the files, float32 for float64. Overflow is refused."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the groups that become the split `validation`, where the files give no split."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share that becomes the split `test`."""
    outlier_factor: float = Field(10.0, gt=1)
    """A row is flagged where its norm at any hook exceeds this many times the median of the first 4,096."""
    shard_rows: int = Field(65_536, gt=0)
    """Rows of a shard file; an interrupted import continues at the last finished one."""
    seed: int = 0
    """Fixes the split."""

    @field_validator("hook")
    @classmethod
    def _pairs(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        for pair in pairs:
            given, equals, place = pair.partition("=")
            if not (given and equals and place):
                raise ValueError(f"hook: expected NAME=PLACE, as in early=layers.3:out, got {pair!r}")
        return pairs

    @model_validator(mode="after")
    def _consistent(self) -> ImportConfig:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test must stay below 1, got {self.validation} + {self.test}")
        if len(set(self.axes)) < len(self.axes) or (self.axes and "problem" not in self.axes):
            raise ValueError("axes: expected problem, and hook and thought at most once each")
        return self

    @property
    def places(self) -> dict[str, str]:
        """What hooks of the files are in the model."""
        return dict(pair.split("=", 1) for pair in self.hook)
