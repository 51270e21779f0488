"""Linear probes under one protocol: grouped outer folds, nested choice of C, out-of-fold predictions.

Every representation goes through the same call, so that two scores differ by the representation
alone. Folds are drawn once and shared (`Folds.digest` names them); whoever is in a test fold has
touched neither the scaler, the choice of C, nor the weights.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse as sp
import scipy.special
from jaxtyping import Float, Int
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from thoughtlens.baselines.matrices import Matrix, columns, dense, moments, precise, rows, shape
from thoughtlens.errors import DataError

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
TOLERANCE = 1e-4
SPAN = 1e-12
"""Principal axes with less than this share of the strongest one's spread hold nothing but rounding."""
LEARNER = (
    "multinomial logistic regression, L2, unpenalised intercept, L-BFGS on principal axes, each scaled by "
    "its curvature, to a gradient below 1e-4"
)
SCALER = "unit variance per feature, fitted on the outer training fold; constant features dropped"

Weights = np.ndarray


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


@dataclass(frozen=True, eq=False)
class Probe:
    """Out-of-fold predictions of one representation, and how they were chosen.

    `inner_loss[f]` is the log-loss (nats) of the chosen C over the inner folds of outer fold f: the
    only number by which poolings may be chosen without looking at the test fold.
    """

    pred: Int[np.ndarray, " n"]
    proba: Float[np.ndarray, "n n_classes"]
    c: Float[np.ndarray, " n_splits"]
    inner_loss: Float[np.ndarray, " n_splits"]
    n_features: int
    n_unconverged: int


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


def probe(
    X: Matrix,
    y: Int[np.ndarray, " n"],
    folds: Folds,
    *,
    n_classes: int,
    grid: Sequence[float] = GRID,
    max_iter: int = 200,
) -> Probe:
    """Out-of-fold predictions of a logistic regression on `X`, C chosen inside each training fold.

    Where no feature varies, that is the frequencies of the classes in the training fold.

    Args:
        X: `[n, n_features]`, dense or CSR.
        y: Class codes `0..n_classes - 1`.
        folds: Shared folds.
        n_classes: Number of classes.
        grid: Values of C tried in ascending order, each fit started from the one before; given up
            when the inner loss has risen twice in a row.
        max_iter: L-BFGS steps for each fit; fits that stop there are counted in `n_unconverged`.

    Raises:
        DataError: NaN or Inf in X, or another number of rows than y.
    """
    _check_matrix(X, y)
    grid = sorted(grid)
    proba = np.zeros((len(y), n_classes))

    def one(fold: int) -> tuple[float, float, int]:
        train, test = np.flatnonzero(folds.outer != fold), np.flatnonzero(folds.outer == fold)
        Z, Z_test = _rotate(*_scale(rows(X, train), rows(X, test)))
        loss, missed = _inner_losses(Z, y[train], folds.inner[fold, train], grid, n_classes, max_iter)
        best, W = int(loss.argmin()), np.zeros((Z.shape[1] + 1, n_classes))
        for value in grid[: best + 1]:
            W, late = _fit(Z, y[train], value, W, max_iter)
            missed += late if value == grid[best] else 0
        proba[test] = _proba(W, Z_test)
        return grid[best], loss[best], missed

    # One thread a fold: BLAS threads of their own wait for each other at each small product.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(_cpus()) as pool:
        c, losses, unconverged = zip(*pool.map(one, range(folds.n_splits)), strict=True)
    return Probe(proba.argmax(1), proba, np.array(c), np.array(losses), shape(X)[1], int(sum(unconverged)))


def _cpus() -> int:
    """Processors this process may use, where the system says it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def majority(y: Int[np.ndarray, " n"], folds: Folds, *, n_classes: int) -> Probe:
    """Predict the training fold's most frequent class, with the class frequencies as probabilities."""
    proba = np.zeros((len(y), n_classes))
    losses = np.zeros(folds.n_splits)
    for fold in range(folds.n_splits):
        share = np.bincount(y[folds.outer != fold], minlength=n_classes) / (folds.outer != fold).sum()
        proba[folds.outer == fold] = share
        losses[fold] = -(share * np.log(np.maximum(share, 1e-12))).sum()
    return Probe(proba.argmax(1), proba, np.full(folds.n_splits, np.nan), losses, 0, 0)


def select(probes: Sequence[Probe], folds: Folds) -> tuple[Probe, list[int]]:
    """Per outer fold, the predictions of the probe whose inner loss is least, and which that was.

    The choice sees the training fold only, so the result is an honest score of "the best of these".
    """
    choice = np.stack([p.inner_loss for p in probes]).argmin(0)
    per_unit = choice[folds.outer]
    units = np.arange(len(per_unit))
    proba = np.stack([p.proba for p in probes])[per_unit, units]
    pick = choice, np.arange(folds.n_splits)
    return Probe(
        proba.argmax(1),
        proba,
        np.stack([p.c for p in probes])[pick],
        np.stack([p.inner_loss for p in probes])[pick],
        max(p.n_features for p in probes),
        sum(p.n_unconverged for p in probes),
    ), choice.tolist()


def permute_labels(
    y: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"], folds: Folds, *, seed: int
) -> Int[np.ndarray, " n"]:
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
            f"Expected at least {n_splits} groups for {n_splits} folds, got {n_groups}; "
            f"lower folds or give more problems"
        )
    for code, name in enumerate(names):
        if (n_own := len(np.unique(groups[y == code]))) < n_splits:
            raise DataError(
                f"Expected every class in at least {n_splits} groups, one a fold; class {name!r} is in "
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


def _check_matrix(X: Matrix, y: np.ndarray) -> None:
    if shape(X)[0] != len(y):
        raise DataError(f"Expected one row of X for each of {len(y)} labels, got {shape(X)[0]} rows")
    values = X if isinstance(X, np.ndarray) else X.data
    if not np.isfinite(values).all():
        raise DataError("Expected finite features, got NaN or Inf; look at the activations they came from")


def _scale(train: Matrix, test: Matrix) -> tuple[Matrix, Matrix]:
    """Unit variance. Dense matrices are centred too: with a free intercept that changes nothing but speed."""
    train, test = precise(train), precise(test)
    mean, std, largest = moments(train)
    alive = std > 1e-7 * np.maximum(largest, 1e-300)
    both = columns(train, alive), columns(test, alive)
    if isinstance(train, np.ndarray):
        a, b = ((m - mean[alive]) / std[alive] for m in both)
    else:
        weights = sp.diags_array(1 / std[alive])
        a, b = (sp.csr_array(m @ weights) for m in both)
    return a, b


def _rotate(train: Matrix, test: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """The same units on the training units' principal axes (uncentred), at most as many as units.

    An L2-penalised linear fit does not change under a rotation, and never leaves the span of its rows.
    On these axes the Hessian is nearly diagonal, which `_fit` uses.
    """
    n, d = shape(train)
    spread, axes = scipy.linalg.eigh(dense(train.T @ train if d <= n else train @ train.T))
    kept = spread > SPAN * max(spread[-1], np.finfo(float).tiny) if len(spread) else np.zeros(0, bool)
    spread, axes = spread[kept], axes[:, kept]
    if d <= n:
        return dense(train @ axes), dense(test @ axes)
    length = np.sqrt(spread)
    return axes * length, dense(test @ train.T) @ (axes / length)


def _inner_losses(
    Z: np.ndarray, y: np.ndarray, inner: np.ndarray, grid: list[float], n_classes: int, max_iter: int
) -> tuple[np.ndarray, int]:
    """Held-out log-loss of every C over the inner folds; from the second rise in a row on, infinite."""
    masks = [(inner != i, inner == i) for i in range(inner.max() + 1)]
    parts = [(Z[kept], y[kept], Z[held], y[held]) for kept, held in masks]
    models = [np.zeros((Z.shape[1] + 1, n_classes)) for _ in parts]
    losses, unconverged = np.full(len(grid), np.inf), 0
    for i, c in enumerate(grid):
        total = 0.0
        for j, (Z_kept, y_kept, Z_held, y_held) in enumerate(parts):
            models[j], missed = _fit(Z_kept, y_kept, c, models[j], max_iter)
            proba = _proba(models[j], Z_held)[np.arange(len(y_held)), y_held]
            total -= np.log(np.maximum(proba, 1e-12)).sum()
            unconverged += missed
        losses[i] = total / len(y)
        if i >= 2 and losses[i] > losses[i - 1] > losses[i - 2]:
            break
    return losses, unconverged


def _fit(Z: np.ndarray, y: np.ndarray, c: float, start: Weights, max_iter: int) -> tuple[Weights, int]:
    """Weights and biases [features + 1, classes] that minimise the mean log-loss + |W|^2 / (2 c n).

    L-BFGS from `start`, the fit at a smaller c, on variables divided by the root of their curvature at
    W = 0: on principal axes that leaves few steps to go. Second value: 1 if it stopped at `max_iter`.
    """
    n, n_classes = len(y), start.shape[1]
    units = np.arange(n)
    certainty = (n_classes - 1) / n_classes**2
    curvature = np.append((Z**2).mean(0) * certainty + 1 / (c * n), certainty)
    unit = 1 / np.sqrt(curvature)[:, None]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        W = flat.reshape(-1, n_classes) * unit
        scores = Z @ W[:-1] + W[-1]
        scores -= scores.max(1, keepdims=True)
        right = scores[units, y]
        np.exp(scores, out=scores)
        total = scores.sum(1)
        scores /= total[:, None]
        scores[units, y] -= 1
        scores /= n
        gradient = np.concatenate([Z.T @ scores + W[:-1] / (c * n), scores.sum(0)[None]])
        value = (np.log(total) - right).mean() + (W[:-1] ** 2).sum() / (2 * c * n)
        return float(value), (gradient * unit).ravel()

    found = scipy.optimize.minimize(
        loss, (start / unit).ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": max_iter, "maxfun": 2 * max_iter, "gtol": TOLERANCE, "ftol": 1e-12},
    )  # fmt: skip
    return found.x.reshape(-1, n_classes) * unit, int(found.nit >= max_iter)


def _proba(W: Weights, Z: np.ndarray) -> np.ndarray:
    return scipy.special.softmax(Z @ W[:-1] + W[-1], axis=1)
