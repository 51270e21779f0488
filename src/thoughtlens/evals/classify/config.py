"""Which labels to predict, from what, and how it is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from thoughtlens.core import Config
from thoughtlens.evals.probing.menu import (
    ARMS,
    CELL_POOLINGS,
    GRID,
    KS,
    TOKEN_POOLINGS,
    USUAL_ARMS,
    Counts,
    Strengths,
)

SELECTED, SELECTED_CELL = "selected", "selected_cell"
CELL_ARMS = ("sae", "raw")
"""Arms that are also scored on every single cell."""


class ClassifyConfig(Config):
    """Which labels to predict, from what, and how it is scored."""

    acts: Path
    """The activation store."""
    sae: Path
    """The SAE(s)."""
    target: str | None = None
    """Label column of the store's problems to predict."""
    task: Literal["auto", "classification", "regression"] = "auto"
    """Whether `target` is a class or a number; auto: a number where it is numeric and has more than
    30 different values."""
    classes: tuple[str, ...] | None = None
    """Only units with these labels; unset: all that have one."""
    data: str | None = None
    """Instead of `target`, for text: a file of labelled texts (.csv, .jsonl, .parquet) or
    `sae-probes:NAME`; the model is run on them."""
    text_column: str = "text"
    """Column of the texts in `data`."""
    label_column: str = "label"
    """Column of the labels in `data`."""
    group_column: str | None = None
    """Column whose values are never on both sides of a split; unset: `group_id` of the store, or copies
    of a text in `data`."""
    split: str | None = None
    """Split whose problems are classified, or `all`; unset: those the SAE was not trained on."""
    train_where: tuple[str, ...] = ()
    """Fit on problems with these values of columns only, such as released=true or n_steps=2,3; several
    conditions hold together. Given with `test_where`."""
    test_where: tuple[str, ...] = ()
    """Score on problems with these values only: does a probe carry over from one condition to another?"""
    members: tuple[str, ...] | None = None
    """SAEs of the directory to use, by name or as `per_layer`, `per_thought`, `per_cell`; unset: all. Each
    (hook, thought) may be covered once."""
    arms: tuple[str, ...] = USUAL_ARMS
    """Representations to score, or `all`; those that the data cannot have are left out and named."""
    poolings: tuple[str, ...] | None = None
    """How a unit's vectors become one row; unset: all."""
    primary_pooling: str = SELECTED
    """Pooling of the one comparison named before looking, SAE against raw; `selected` is each arm's best
    pooling by its inner folds."""
    per_cell: bool = True
    """Also score every (hook, thought) alone, for SAE and raw, and test which is best."""
    n_permutations: int = Field(200, ge=20)
    """Permutations behind the test of which cell is best."""
    ks: Counts = KS
    """Numbers of features that the arms top_latents, top_neurons and top_pcs choose from."""
    cross_fit: bool = False
    """Train the SAE anew on each training fold, as it was trained, so that it sees no unit it is tested on.
    Thoughts only; takes as many trainings as folds."""
    folds: int = Field(5, ge=2)
    """Outer folds; every unit is predicted once, by a probe that has not seen its group."""
    inner_folds: int = Field(3, ge=2)
    """Folds inside a training fold, by which C and pooling are chosen."""
    c_grid: Strengths = GRID
    """Inverse regularisation strengths to choose from."""
    max_iter: int = Field(200, ge=1)
    """Steps of the optimizer for each fit."""
    max_units: int = Field(3000, ge=0)
    """Most problems or texts; more are thinned by whole groups. 0: no limit."""
    pca_k: int | None = Field(None, ge=1)
    """Principal components of the PCA arm per vector; unset: the SAE's L0, rounded."""
    delta: float = Field(0.03, ge=0)
    """Difference of accuracy below which two arms count as equivalent."""
    seed: int = Field(0, ge=0)
    """Seed of thinning, folds, shuffled labels and resampling."""

    @field_validator("train_where", "test_where", mode="before")
    @classmethod
    def _one_condition(cls, text: Any) -> Any:
        return (text,) if isinstance(text, str) else text

    @field_validator("train_where", "test_where")
    @classmethod
    def _conditions(cls, conditions: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [one for one in conditions if not all(one.partition("="))]:
            raise ValueError(f"expected COLUMN=VALUE, such as n_steps=3, got {wrong[0]!r}")
        return conditions

    @field_validator("arms", mode="before")
    @classmethod
    def _all_arms(cls, names: Any) -> Any:
        return tuple(ARMS) if names in ("all", ("all",), ["all"]) else names

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [n for n in names if n not in ARMS]:
            raise ValueError(f"no arm {unknown[0]!r}; there are {', '.join(ARMS)}")
        if not {"sae", "raw"} <= set(names):
            raise ValueError("arms must hold sae and raw, which are compared")
        return tuple(name for name in ARMS if name in names)

    @model_validator(mode="after")
    def _consistent(self) -> ClassifyConfig:
        if self.target is not None and self.data is not None:
            raise ValueError("give target (a label column of the store) or data (labelled texts), not both")
        if bool(self.train_where) != bool(self.test_where):
            raise ValueError("give both train_where and test_where: what is fitted on, and what is scored")
        if self.train_where and (self.cross_fit or self.data is not None):
            raise ValueError("train_where is for columns of the store's problems, without data and cross_fit")
        known = [*CELL_POOLINGS, *TOKEN_POOLINGS]
        for name in (*(self.poolings or ()), self.primary_pooling):
            if name not in (*known, SELECTED):
                raise ValueError(f"no pooling {name!r}; there are {', '.join(known)}")
        return self
