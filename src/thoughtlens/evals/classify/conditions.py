"""A probe fitted under one condition and scored under another: which units, folds and verdicts that are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from thoughtlens.core import ConfigError, DataError
from thoughtlens.evals.classify.config import ClassifyConfig
from thoughtlens.evals.probing.folds import one_fold
from thoughtlens.evals.probing.probes import Folds, Probe
from thoughtlens.evals.probing.samples import Units
from thoughtlens.evals.probing.topk import AtK

DEFINITIONS = {
    "transfer": "fitted on units of train_where, scored on those of test_where; no group is on both sides of "
    "a fit, since every unit is predicted by the probe that was fitted without its fold",
    "within_test": "the ceiling: fitted and scored on units of test_where, the same folds",
    "within_train": "fitted and scored on units of train_where, the same folds",
    "carries_over": "whole: transfer is equivalent to within_test or better; in part: worse, and it knows "
    "more than a guess; not at all: worse, and not shown to know more than a guess; no information: "
    "within_test is not shown to know more than a guess; else inconclusive",
}


@dataclass(frozen=True, eq=False)
class Transfer:
    """Which of all loaded units are fitted on, and which are scored."""

    every: Units
    """Those of both conditions, as the samples have them."""
    fitted: Bool[np.ndarray, " n"]
    scored: Bool[np.ndarray, " n"]
    folds: Folds
    """Of every unit: who is tested when."""
    seed: int

    @property
    def units(self) -> Units:
        """Those that are scored."""
        return self.every.take(self.scored)

    def rows(self, fold: int) -> tuple[Int[np.ndarray, " m"], Folds]:
        """Units of one outer fold, fitted or scored, and who of them is which."""
        test = self.scored & (self.folds.outer == fold)
        train = self.fitted & (self.folds.outer != fold)
        rows = np.flatnonzero(test | train)
        every = self.every
        part = one_fold(
            every.y[rows], every.groups[rows], test[rows], n_inner=int(self.folds.inner.max()) + 1,
            seed=self.seed + 1 + fold, classes=every.classes,
        )  # fmt: skip
        return rows, part

    def joined(self, found: Sequence[Probe | AtK]) -> Probe | AtK:
        """Those of all outer folds as one, over the units that are scored."""
        if all(isinstance(one, Probe) for one in found):
            return self._probe([one for one in found if isinstance(one, Probe)])
        several = [one for one in found if isinstance(one, AtK)]
        whole = {k: self._probe([one.probes[k] for one in several]) for k in several[0].probes}
        return AtK(whole, np.concatenate([one.chosen for one in several]))

    def _probe(self, found: Sequence[Probe]) -> Probe:
        n = len(self.every.y)
        pred = np.zeros(n, found[0].pred.dtype)
        proba = np.full((n, found[0].proba.shape[1]), np.nan)
        for fold, one in enumerate(found):
            rows, part = self.rows(fold)
            test = part.outer == 0
            pred[rows[test]], proba[rows[test]] = one.pred[test], one.proba[test]
        return replace(
            found[0],
            pred=pred[self.scored],
            proba=proba[self.scored],
            c=np.concatenate([one.c for one in found]),
            inner_loss=np.concatenate([one.inner_loss for one in found]),
            n_features=max(one.n_features for one in found),
            n_unconverged=sum(one.n_unconverged for one in found),
        )


def masks(cfg: ClassifyConfig, problems: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Which problems each of the two conditions holds for.

    Raises:
        ConfigError: no such column or value; says which there are.
        DataError: a condition that holds for no problem.
    """
    train, test = (
        _mask(name, conditions, problems)
        for name, conditions in (("train_where", cfg.train_where), ("test_where", cfg.test_where))
    )
    return train, test


def _mask(name: str, conditions: Sequence[str], problems: pa.Table) -> np.ndarray:
    found = np.ones(len(problems), bool)
    for condition in conditions:
        column, _, wanted = condition.partition("=")
        if column not in problems.column_names:
            raise ConfigError(f"{name}: no column {column!r}; there are {', '.join(problems.column_names)}")
        own = np.array([_text(value) for value in problems[column].to_pylist()])
        there = sorted(set(own.tolist()))
        for value in wanted.split(","):
            if value not in there:
                shown = ", ".join(there[:12]) + (" .." if len(there) > 12 else "")
                raise ConfigError(f"{name}: {column} is never {value!r}; there are {shown}")
        found &= np.isin(own, wanted.split(","))
    if not found.any():
        raise DataError(f"{name}: no problem has {' and '.join(conditions)}")
    return found


def _text(value: object) -> str:
    """A value as a condition names it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def require_both(cfg: ClassifyConfig, units: Units, train: np.ndarray, test: np.ndarray) -> None:
    """Refuse conditions between which nothing can be carried over.

    Raises:
        DataError: no labelled unit of a condition, one class only, or a class that is never fitted.
    """
    for name, conditions, own in (
        ("train_where", cfg.train_where, train), ("test_where", cfg.test_where, test)
    ):  # fmt: skip
        said = f"{name}={' and '.join(conditions)}"
        if not own.any():
            raise DataError(f"{said}: no unit of the classified split has this and a label; give split=all")
        if len(np.unique(units.y[own])) < 2:
            only = units.y[own][0]
            value = f"{only:g}" if units.classes is None else units.classes[int(only)]
            raise DataError(
                f"{said}: all {own.sum()} units have the label {value!r}; choose another condition"
            )
    if units.classes is not None and (new := np.setdiff1d(units.y[test], units.y[train])).size:
        raise DataError(
            f"train_where: no unit has the label {units.classes[int(new[0])]!r}, which is asked for under "
            f"test_where; leave it out with classes="
        )
