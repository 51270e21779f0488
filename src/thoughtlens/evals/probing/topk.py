"""Accuracy at k: the k features that, one by one, say most about the target in the training fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from thoughtlens.evals.probing.features import association, one_hot
from thoughtlens.evals.probing.folds import Folds
from thoughtlens.evals.probing.linear import Linear
from thoughtlens.evals.probing.losses import Loss
from thoughtlens.evals.probing.matrices import Matrix, columns, dense, precise, rows, shape
from thoughtlens.evals.probing.menu import GRID, KS
from thoughtlens.evals.probing.probes import Fold, Probe, check_matrix, each_fold, fit_fold


@dataclass(frozen=True, eq=False)
class AtK:
    """Probes on the k chosen features for each k, and which these were in every outer fold."""

    probes: dict[int, Probe]
    chosen: Int[np.ndarray, "n_splits k"]
    """Columns of the matrix, those that say most first; -1 where a fold was not done."""


def at_k(
    X: Matrix,
    y: Shaped[np.ndarray, " n"],
    folds: Folds,
    *,
    n_classes: int | None,
    ks: Sequence[int] = KS,
    grid: Sequence[float] = GRID,
    max_iter: int = 200,
    only: Sequence[int] | None = None,
) -> AtK:
    """As `probes.probe` for each k, the features chosen by the share of variance that the target explains.

    The choice is made in each training fold, and again in each inner one, so neither C nor k (by
    `probes.select`) is chosen on units that the features were chosen on.
    """
    check_matrix(X, y)
    ks = sorted({min(k, shape(X)[1]) for k in ks})
    chosen = np.full((folds.n_splits, ks[-1]), -1)
    prepared: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def prepare(fold: int, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
        if fold not in prepared:
            train, test = np.flatnonzero(folds.outer != fold), np.flatnonzero(folds.outer == fold)
            Z, Z_test, chosen[fold] = _chosen(
                rows(X, train),
                rows(X, test),
                one_hot(y[train], n_classes),
                loss,
                k=ks[-1],
                classes=n_classes is not None,
            )
            prepared[fold] = Z, Z_test
        return prepared[fold]

    found = {}
    for k in ks:

        def one(fold: int, loss: Loss, k: int = k) -> Fold:
            Z, Z_test = prepare(fold, loss)
            inner = folds.inner[fold, folds.outer != fold]
            return fit_fold(
                Linear(Z[:, :, :k]), Linear(Z_test[:, :k]), loss, inner, grid=grid, max_iter=max_iter
            )

        found[k] = each_fold(one, y, folds, n_classes=n_classes, n_features=k, only=only)
    return AtK(found, chosen)


def _chosen(
    train: Matrix, test: Matrix, targets: Float[np.ndarray, "n m"], loss: Loss, *, k: int, classes: bool
) -> tuple[Float[np.ndarray, "p n k"], Float[np.ndarray, "n_test k"], Int[np.ndarray, " k"]]:
    """Every problem's own k features, in units of their spread over all training units."""
    train, test, parts = precise(train), precise(test), []
    for j in range(loss.kept.shape[1]):
        own = association(train, targets, loss.kept[:, j], classes=classes)
        best = np.argsort(-own, kind="stable")[:k]
        picked, picked_test = (dense(columns(m, best)) for m in (train, test))
        mean, std = picked.mean(0), picked.std(0)
        std[std == 0] = 1.0
        parts.append(((picked - mean) / std, (picked_test - mean) / std, best))
    return np.stack([fitted for fitted, _, _ in parts]), *parts[-1][1:]
