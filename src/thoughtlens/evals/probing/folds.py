"""Who is tested when: stratified folds that never split a group, drawn once for every representation."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

from thoughtlens.core import DataError


@dataclass(frozen=True, eq=False)
class Folds:
    """Who is tested when: `outer[i]` is the test fold of unit i, `inner[f, i]` its inner fold while
    fold f is tested (-1: unit i is in the test fold)."""

    outer: Int[np.ndarray, " n"]
    inner: Int[np.ndarray, "n_splits n"]

    @property
    def n_splits(self) -> int:
        return len(self.inner)

    @property
    def digest(self) -> str:
        """sha256 (16 hex digits) of the fold of every unit."""
        both = np.concatenate([self.outer[None], self.inner]).astype("<i4")
        return hashlib.sha256(both.tobytes()).hexdigest()[:16]


def require_groups(ids: Sequence[str], groups: Sequence[str] | None) -> np.ndarray:
    """The group of every unit; without groups, ids must not repeat.

    Raises:
        DataError: an id repeats and no groups were given, or an id lies in two groups.
    """
    names = np.asarray(ids, dtype=object)
    unique, first, inverse, counts = np.unique(
        names, return_index=True, return_inverse=True, return_counts=True
    )
    if groups is None:
        if len(unique) < len(names):
            twice = unique[counts.argmax()]
            raise DataError(
                f"Expected every id once, got {twice!r} {counts.max()} times among {len(names)} units and no "
                f"groups: one problem would be trained on and tested. Name a group column"
            )
        return np.arange(len(names))
    own = np.asarray(groups, dtype=object)
    if len(own) != len(names):
        raise DataError(f"Expected one group for each of {len(names)} units, got {len(own)}")
    if (torn := own != own[first][inverse]).any():
        raise DataError(
            f"Expected every id in one group, got {names[torn.argmax()]!r} in several; "
            f"give all its rows the same group"
        )
    return np.unique(own, return_inverse=True)[1]


def make_folds(
    y: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    n_splits: int = 5,
    n_inner: int = 3,
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> Folds:
    """Stratified outer and inner folds that never split a group.

    Raises:
        DataError: constant labels, fewer groups than folds, or a class too rare to be in every fold.
    """
    names = [str(c) for c in (classes if classes is not None else range(y.max() + 1))]
    _check_classes(y, groups, names, n_splits)
    outer = _assign(y, groups, n_splits, seed)
    inner = np.full((n_splits, len(y)), -1)
    for fold in range(n_splits):
        train = outer != fold
        _check_fold(y, train, names, f"outer fold {fold + 1} of {n_splits}")
        inner[fold, train] = _assign(y[train], groups[train], n_inner, seed + 1 + fold)
        for part in range(n_inner):
            kept = train & (inner[fold] != part)
            _check_fold(y, kept, names, f"inner fold {part + 1} of {n_inner}")
    return Folds(outer, inner)


def make_value_folds(
    y: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    n_splits: int = 5,
    n_inner: int = 3,
    seed: int = 0,
) -> Folds:
    """Outer and inner folds for a number as the target: groups whole, not stratified.

    Raises:
        DataError: a constant target, or fewer groups than folds.
    """
    if np.ptp(y) == 0:
        raise DataError(f"Expected a target that varies, all {len(y)} units have {y[0]:g}; choose another")
    n_groups = len(np.unique(groups))
    if n_groups < n_splits + n_inner:
        raise DataError(
            f"Expected at least {n_splits + n_inner} groups for {n_splits} outer and {n_inner} inner folds, "
            f"got {n_groups}; lower folds or give more problems"
        )
    outer = _group_folds(groups, n_splits, seed)
    inner = np.full((n_splits, len(y)), -1)
    for fold in range(n_splits):
        train = outer != fold
        if np.ptp(y[train]) == 0:
            raise DataError(f"The target does not vary in the training part of outer fold {fold + 1}")
        inner[fold, train] = _group_folds(groups[train], n_inner, seed + 1 + fold)
    return Folds(outer, inner)


def one_fold(
    y: Shaped[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    test: Shaped[np.ndarray, " n"],
    *,
    n_inner: int,
    seed: int,
    classes: Sequence[str] | None,
) -> Folds:
    """One outer fold whose test units are given, the others in grouped inner folds.

    Raises:
        DataError: a class, or groups, that the others have too few of.
    """
    inner, train = np.full((1, len(y)), -1), ~test
    if (n_groups := len(np.unique(groups[train]))) < n_inner:
        raise DataError(
            f"Expected at least {n_inner} groups to fit on, for as many inner folds, got {n_groups}"
        )
    if classes is None:
        inner[0, train] = _group_folds(groups[train], n_inner, seed)
    else:
        inner[0, train] = _assign(y[train], groups[train], n_inner, seed)
    return Folds(np.where(test, 0, 1), inner)


def permute_labels(
    y: Shaped[np.ndarray, " n"], groups: Int[np.ndarray, " n"], folds: Folds, *, seed: int
) -> Shaped[np.ndarray, " n"]:
    """Labels shuffled inside each outer fold: over groups where every group has one label, else over units.

    Not across folds: test folds with other class shares than the rest push honest guesses below chance.
    """
    rng = np.random.default_rng(seed)
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    by_group = (y == y[first][inverse]).all()
    labels, fold = (y[first], folds.outer[first]) if by_group else (y, folds.outer)
    shuffled = labels.copy()
    for i in range(folds.n_splits):
        shuffled[fold == i] = rng.permutation(labels[fold == i])
    return shuffled[inverse] if by_group else shuffled


def _check_classes(y: np.ndarray, groups: np.ndarray, names: list[str], n_splits: int) -> None:
    present = np.unique(y)
    if len(present) < 2:
        raise DataError(
            f"Expected at least two classes, got only {names[int(present[0])]!r} in all {len(y)} units; "
            f"choose another target"
        )
    if (n_groups := len(np.unique(groups))) < n_splits:
        raise DataError(
            f"Expected at least {n_splits} groups for {n_splits} folds, got {n_groups} "
            f"of {len(y)} units, where near copies of a text count as one; lower folds or give more problems"
        )
    for code, name in enumerate(names):
        if (n_own := len(np.unique(groups[y == code]))) < n_splits:
            raise DataError(
                f"Expected every class in at least {n_splits} groups, one per fold; class {name!r} is in "
                f"{n_own}. Lower folds, merge or drop the class, or give more problems"
            )


def _check_fold(y: np.ndarray, train: np.ndarray, names: list[str], where: str) -> None:
    missing = np.setdiff1d(np.arange(len(names)), y[train])
    if len(missing):
        raise DataError(
            f"Expected every class in the training part of {where}, class {names[int(missing[0])]!r} is not "
            f"there: its units share too few groups. Lower folds, or drop the class"
        )


def _assign(y: np.ndarray, groups: np.ndarray, n_splits: int, seed: int) -> np.ndarray:
    kind, by = StratifiedGroupKFold, groups
    if len(np.unique(groups)) == len(groups):
        kind, by = StratifiedKFold, None
    splitter = kind(n_splits, shuffle=True, random_state=seed)
    fold = np.zeros(len(y), dtype=np.int64)
    with warnings.catch_warnings():
        # a class rarer than the inner folds: checked by us, with its name
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for i, (_, test) in enumerate(splitter.split(np.zeros(len(y)), y, by)):
            fold[test] = i
    return fold


def _group_folds(groups: np.ndarray, n_splits: int, seed: int) -> np.ndarray:
    fold = np.zeros(len(groups), dtype=np.int64)
    splitter = GroupKFold(n_splits, shuffle=True, random_state=seed)
    for i, (_, test) in enumerate(splitter.split(groups, groups=groups)):
        fold[test] = i
    return fold
