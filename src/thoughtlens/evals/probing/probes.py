"""Linear probes under one protocol: grouped outer folds, nested choice of C, out-of-fold predictions.

Every representation goes through the same call, so that two scores differ by the representation
alone. Folds are drawn once and shared (`Folds.digest` names them); whoever is in a test fold has
touched neither the scaler, the choice of C, nor the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import scipy.special
from jaxtyping import Float, Int, Shaped
from threadpoolctl import threadpool_limits

from thoughtlens.core import DataError, n_threads
from thoughtlens.evals.probing.features import SCALER, rotate, scale
from thoughtlens.evals.probing.folds import (
    Folds,
    make_folds,
    make_value_folds,
    permute_labels,
    require_groups,
)
from thoughtlens.evals.probing.linear import Linear, Model, path
from thoughtlens.evals.probing.losses import LogLoss, Loss, SquaredLoss
from thoughtlens.evals.probing.matrices import Matrix, rows, shape
from thoughtlens.evals.probing.menu import GRID

__all__ = [
    "GRID",
    "LEARNER",
    "REGRESSOR",
    "SCALER",
    "Fold",
    "Folds",
    "Probe",
    "check_matrix",
    "constant",
    "each_fold",
    "fit_fold",
    "make_folds",
    "make_value_folds",
    "merge",
    "permute_labels",
    "probe",
    "require_groups",
    "select",
]  # fmt: skip

LEARNER = (
    "multinomial logistic regression, L2, unpenalised intercept, L-BFGS on principal axes, each scaled by "
    "its curvature, to a gradient below 1e-4"
)
REGRESSOR = "ridge regression of the standardised target, otherwise as the classifier"


@dataclass(frozen=True, eq=False)
class Probe:
    """Out-of-fold predictions of one representation, and how they were chosen.

    `inner_loss[f]` is the mean loss of the chosen C over the inner folds of outer fold f (log-loss in
    nats, or half the squared error of the standardised target): the only number by which poolings may be
    chosen without looking at the test fold. A fold that was not fitted has NaN.
    """

    pred: Shaped[np.ndarray, " n"]
    """Class codes, or the number predicted."""
    proba: Float[np.ndarray, "n n_classes"]
    """Probabilities of the classes; no columns where a number is predicted."""
    c: Float[np.ndarray, " n_splits"]
    inner_loss: Float[np.ndarray, " n_splits"]
    n_features: int
    n_unconverged: int


@dataclass(frozen=True, eq=False)
class Fold:
    """One outer fold: outputs on its test units, the C chosen, its inner loss, fits that did not converge."""

    outputs: Float[np.ndarray, "n_test k"]
    c: float
    inner_loss: float
    n_late: int


def probe(
    X: Matrix,
    y: Shaped[np.ndarray, " n"],
    folds: Folds,
    *,
    n_classes: int | None,
    grid: Sequence[float] = GRID,
    max_iter: int = 200,
    only: Sequence[int] | None = None,
) -> Probe:
    """Out-of-fold predictions of an L2-penalised linear model on `X`, C chosen inside each training fold.

    Where no feature varies, that is the frequencies of the classes in the training fold, or its mean.

    Args:
        X: `[n, n_features]`, dense or CSR.
        y: Class codes `0..n_classes - 1`, or numbers.
        folds: Shared folds.
        n_classes: Number of classes; None: y is a number, predicted by ridge regression.
        grid: Values of C tried in ascending order, each fit started from the one before; given up
            when the inner loss has risen twice in a row.
        max_iter: L-BFGS steps for each fit; fits that stop there are counted in `n_unconverged`.
        only: Outer folds to do; unset: all. The others are left as NaN (class -1), for `merge`.

    Raises:
        DataError: NaN or Inf in X, or another number of rows than y.
    """
    check_matrix(X, y)

    def one(fold: int, loss: Loss) -> Fold:
        train, test = np.flatnonzero(folds.outer != fold), np.flatnonzero(folds.outer == fold)
        Z, Z_test = rotate(*scale(rows(X, train), rows(X, test)))
        return fit_fold(
            Linear(Z), Linear(Z_test), loss, folds.inner[fold, train], grid=grid, max_iter=max_iter
        )

    return each_fold(one, y, folds, n_classes=n_classes, n_features=shape(X)[1], only=only)


def each_fold(
    one: Callable[[int, Loss], Fold],
    y: Shaped[np.ndarray, " n"],
    folds: Folds,
    *,
    n_classes: int | None,
    n_features: int,
    only: Sequence[int] | None = None,
) -> Probe:
    """Do `one(fold, loss on its training units)` for the outer folds side by side, and collect."""
    todo = list(range(folds.n_splits) if only is None else only)
    training = {fold: _training(y, folds, fold, n_classes) for fold in todo}
    # One thread a fold: BLAS threads of their own wait for each other at each small product.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(n_threads()) as pool:
        found = dict(zip(todo, pool.map(lambda fold: one(fold, training[fold][0]), todo), strict=True))
    proba = np.full((len(y), n_classes or 0), np.nan)
    pred = np.full(len(y), np.nan if n_classes is None else -1)
    c, losses = np.full(folds.n_splits, np.nan), np.full(folds.n_splits, np.nan)
    for fold, outcome in found.items():
        test = folds.outer == fold
        c[fold], losses[fold] = outcome.c, outcome.inner_loss
        if n_classes is None:
            _, mean, std = training[fold]
            pred[test] = mean + std * outcome.outputs[:, 0]
        else:
            proba[test] = scipy.special.softmax(outcome.outputs, axis=1)
            pred[test] = outcome.outputs.argmax(1)
    return Probe(pred, proba, c, losses, n_features, sum(o.n_late for o in found.values()))


def fit_fold(
    model: Model,
    model_test: Model,
    loss: Loss,
    inner: Int[np.ndarray, " n"],
    *,
    grid: Sequence[float],
    max_iter: int,
) -> Fold:
    """Choose C by the inner folds and apply the fit on all training units to the test units.

    Problem j < n_inner of the model is the fit without inner fold j, the last one that on all units.
    """
    n_inner, best = inner.max() + 1, None
    units, losses, late = np.arange(len(inner)), [], 0
    for fit in path(model, loss, sorted(grid), max_iter):
        late += fit.n_late
        losses.append(float(loss.rows(fit.outputs[units, inner]).mean()))
        if losses[-1] == min(losses):
            best = fit
        if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
            break
    assert best is not None
    outputs, _ = model_test.forward(best.theta[:, n_inner:], loss.n_outputs, np.zeros(1, int))
    return Fold(outputs[:, 0], best.c, min(losses), late)


def merge(probes: Sequence[Probe]) -> Probe:
    """One probe of several that did different outer folds."""
    done = [~np.isnan(p.inner_loss) for p in probes]
    first, *rest = probes
    for p, own in zip(rest, done[1:], strict=True):
        known = ~np.isnan(p.pred) if p.pred.dtype.kind == "f" else p.pred >= 0
        first = replace(
            first,
            pred=np.where(known, p.pred, first.pred),
            proba=np.where(known[:, None], p.proba, first.proba),
            c=np.where(own, p.c, first.c),
            inner_loss=np.where(own, p.inner_loss, first.inner_loss),
            n_features=max(first.n_features, p.n_features),
            n_unconverged=first.n_unconverged + p.n_unconverged,
        )
    return first


def constant(y: Shaped[np.ndarray, " n"], folds: Folds, *, n_classes: int | None) -> Probe:
    """Predict the training fold's most frequent class, with the class frequencies as probabilities; of a
    number, the training fold's mean."""
    proba = np.zeros((len(y), n_classes or 0))
    pred = np.zeros(len(y), float if n_classes is None else int)
    losses = np.zeros(folds.n_splits)
    for fold in range(folds.n_splits):
        train, test = folds.outer != fold, folds.outer == fold
        if n_classes is None:
            pred[test], losses[fold] = y[train].mean(), 0.5
        else:
            share = np.bincount(y[train], minlength=n_classes) / train.sum()
            proba[test], pred[test] = share, share.argmax()
            losses[fold] = -(share * np.log(np.maximum(share, 1e-12))).sum()
    return Probe(pred, proba, np.full(folds.n_splits, np.nan), losses, 0, 0)


def select(probes: Sequence[Probe], folds: Folds) -> tuple[Probe, list[int]]:
    """Per outer fold, the predictions of the probe whose inner loss is least, and which that was.

    The choice sees the training fold only, so the result is an honest score of "the best of these".
    """
    choice = np.stack([p.inner_loss for p in probes]).argmin(0)
    per_unit = choice[folds.outer]
    units = np.arange(len(per_unit))
    pick = choice, np.arange(folds.n_splits)
    return Probe(
        np.stack([p.pred for p in probes])[per_unit, units],
        np.stack([p.proba for p in probes])[per_unit, units],
        np.stack([p.c for p in probes])[pick],
        np.stack([p.inner_loss for p in probes])[pick],
        max(p.n_features for p in probes),
        sum(p.n_unconverged for p in probes),
    ), choice.tolist()


def _training(y: np.ndarray, folds: Folds, fold: int, n_classes: int | None) -> tuple[Loss, float, float]:
    """The loss on a fold's training units, and the mean and spread that a number was standardised by."""
    train = folds.outer != fold
    inner = folds.inner[fold, train]
    kept = np.concatenate(
        [inner[:, None] != np.arange(inner.max() + 1), np.ones((len(inner), 1), bool)], axis=1
    )
    if n_classes is not None:
        return LogLoss(y[train], kept, n_classes), 0.0, 1.0
    mean, std = float(y[train].mean()), float(y[train].std())
    return SquaredLoss((y[train] - mean) / std, kept), mean, std


def check_matrix(X: Matrix, y: np.ndarray) -> None:
    """Raise DataError unless X has one finite row for each label."""
    if shape(X)[0] != len(y):
        raise DataError(f"Expected one row of X for each of {len(y)} labels, got {shape(X)[0]} rows")
    values = X if isinstance(X, np.ndarray) else X.data
    if not np.isfinite(values).all():
        raise DataError("Expected finite features, got NaN or Inf; look at the activations they came from")
