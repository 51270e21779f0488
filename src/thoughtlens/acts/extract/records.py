"""What the extract stage writes beside the store."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Json, Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class Accuracy(Record):
    """How often a thought model's own answer is right in a split; Wilson 95 % interval."""

    split: str
    accuracy: float = column("right answers")
    low: float
    high: float
    n: int = column("n problems")


@dataclass(frozen=True, kw_only=True)
class ExtractOutcome(Outcome):
    """The stage's result."""

    kind: str
    n_rows: int
    n_problems: int
    n_groups: int | None = None
    """Groups of problems; None in results of earlier versions."""
    n_tokens_left_out: int | None = None
    """Of texts: read by the model, without a row."""
    rows_by_split: dict[str, int]
    hook_names: list[str]
    d_in: dict[str, int]
    n_outliers: int
    n_outliers_at_position_0: int | None = None
    """Of texts."""
    n_outliers_at_thought_idx_0: int | None = None
    """Of thoughts."""
    median_norm: dict[str, float]
    n_norm_rows: int
    """Rows behind `median_norm`."""
    model_accuracy: list[Accuracy] | None = None
    """Of thoughts."""
    n_stopped_early: int | None = None
    """Problems with fewer thoughts than there could be; None of a model that always thinks all of them."""
    mean_thoughts_used: float | None = None
    """Over the problems, likewise."""
    control: str | None = None
    """What the model is a control for, where it is one."""
    model_settings: dict[str, bool | int | float | str | None] | None = None
    """How a thought model thinks, as given, stated by its checkpoint, or assumed."""
    model_settings_assumed: list[str] | None = None
    """Those that nothing stands behind."""

    def to_json(self) -> Json:
        """The fields; an extraction has no headline."""
        table = super().to_json()
        del table["headline"]
        return table


@dataclass(frozen=True, kw_only=True)
class Norms(Record):
    """Median norm of the first rows, by hook: above a multiple of it a row is an outlier."""

    n_rows: int
    median_norm: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Answers(Record):
    """What the model said to some problems, and the last numbers of it."""

    text: list[str]
    value: list[float | None]
    used: list[int] | None = None
    """The last thought of each problem, in a model that stops when it will."""
