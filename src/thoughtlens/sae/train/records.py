"""What the train stage gives back, and the rows of its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from thoughtlens.core import Json, Outcome, Record, column

M = TypeVar("M", bound="Measured")
LOSS = "loss_"
"""What names of the loss's terms begin with in files."""


@dataclass(frozen=True, kw_only=True)
class Sizes(Record):
    """What is known of an SAE before its first step."""

    member: str = column("SAE")
    kind: str
    hook_names: list[str] = column("hooks")
    thoughts: list[int] | None = column(default=None, null=True)
    d_in: int
    d_sae: int
    n_vectors: int = column("vectors")
    n_problems: int | None = None
    passes: float | None = None
    batch_size: int | None = None
    lr_peak: float = column("peak lr")
    dead_after_rows: int | None = None
    l1: float | None = None
    """Coefficient of the L1 penalty, where there is one."""


@dataclass(frozen=True, kw_only=True)
class Sampled(Sizes):
    """The same with the number of vectors that it was measured on."""

    n_train: int | None = None
    n_validation: int | None = None


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """An SAE while it trains, on samples of training and held-out vectors; None where it was not measured."""

    rows_seen: int = column("seen")
    lr: float | None = None
    loss: float | None = None
    losses: dict[str, float] = field(default_factory=dict)
    """Terms of the loss; in files a number each, `loss_*`."""
    l0_train: float | None = column("L0 training", default=None)
    n_dead: int | None = column("dead in training", default=None)
    fvu_train: float | None = column("FVU training", default=None)
    fvu_within_train: float | None = None
    dead_train: int | None = None
    fvu_validation: float | None = column("FVU held out", default=None)
    fvu_within_validation: float | None = None
    l0_validation: float | None = column("L0 held out", default=None)
    dead_validation: int | None = None

    @classmethod
    def from_json(cls: type[M], table: Mapping[str, Any]) -> M:
        """As for every record, the terms of the loss collected."""
        terms = {key.removeprefix(LOSS): value for key, value in table.items() if key.startswith(LOSS)}
        return super().from_json({**table, "losses": terms})

    def to_json(self) -> Json:
        """As for every record, the terms of the loss one by one."""
        table: Json = {}
        for key, value in super().to_json().items():
            table |= {LOSS + term: x for term, x in value.items()} if key == "losses" else {key: value}
        return table


@dataclass(frozen=True, kw_only=True)
class CurvePoint(Measured):
    """A row of `metrics.parquet`, which also has the terms of the loss."""

    member: str


@dataclass(frozen=True, kw_only=True)
class Trained(Measured, Sampled):
    """An SAE that was trained to its end, with its last measurement."""

    pruned: int | None = None
    """Latents taken out once it was trained, where that was asked for; d_sae is without them."""
    pruned_firings: float | None = None
    """Share of all firings, on training vectors, that these had."""


@dataclass(frozen=True, kw_only=True)
class Failed(Record):
    """An SAE that was not."""

    member: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TrainOutcome(Outcome):
    """The stage's result."""

    seed: int
    split: str
    validation_split: str | None = column(default=None)
    members: list[Trained] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
