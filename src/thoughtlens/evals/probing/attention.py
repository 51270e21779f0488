"""Attention pooling: one learned weight a cell and one learned query, fitted together with the probe.

A problem is a bag of vectors, one a (hook, thought) cell. Its outputs are sum_t a_t (W x_t) + bias with
a = softmax_t(b_t + q x_t): the weights may depend on where a vector stands (b) and on what it says (q).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.special
from jaxtyping import Float, Int, Shaped

from thoughtlens.evals.probing.cells import ridge_outputs
from thoughtlens.evals.probing.features import one_hot
from thoughtlens.evals.probing.folds import Folds
from thoughtlens.evals.probing.linear import Model
from thoughtlens.evals.probing.losses import Loss
from thoughtlens.evals.probing.matrices import Matrix, dense, moments, precise, rows, shape, stack
from thoughtlens.evals.probing.menu import GRID
from thoughtlens.evals.probing.probes import Fold, Probe, check_matrix, each_fold, fit_fold

SHARPNESS = 20.0
"""How strongly the first weights prefer cells from which a ridge regression predicts, per unit of score."""
MAX_ROTATED = 1024
"""Width up to which vectors are turned onto their principal axes, where the fit takes fewer steps."""


@dataclass(frozen=True, eq=False)
class Bags:
    """The cells of every unit: one matrix `[n, d]` a cell, in groups whose columns mean the same."""

    groups: list[list[Matrix]]

    @property
    def cells(self) -> list[Matrix]:
        """All cells, group by group."""
        return [cell for group in self.groups for cell in group]


class Attention(Model):
    """The model above on n units; groups share the attention, each has its own W and q."""

    tolerance = 1e-3  # the weights move along flat valleys for hundreds of steps without a change in score

    def __init__(self, groups: Sequence[Matrix], n: int, start_b: Float[np.ndarray, " t"]) -> None:
        self.groups, self.n, self.start_b = groups, n, start_b
        self.widths = [shape(g)[1] for g in groups]
        self.sizes = [shape(g)[0] // n for g in groups]

    def n_variables(self, k: int) -> int:
        """By group W and q [d, k + 1]; then b of every cell less its start, and k intercepts."""
        return sum(self.widths) * (k + 1) + sum(self.sizes) + k

    def start(self, k: int) -> Float[np.ndarray, " m"]:
        """Zeros: b is counted from where it starts, so that the penalty pulls it back there."""
        return np.zeros(self.n_variables(k))

    def curvature(self, second: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " m"]:
        """Of W, as if the first weights stayed; of q, the mean of W's; of b, the mean of the outputs'."""
        weights, parts, first = scipy.special.softmax(self.start_b), [], 0
        for X, size in zip(self.groups, self.sizes, strict=True):
            here = (weights[first : first + size, None, None] * second).reshape(-1, second.shape[1])
            square = X * X if isinstance(X, np.ndarray) else X.multiply(X)
            own = np.asarray(square.T @ here)
            parts.append(np.concatenate([own, own.mean(1, keepdims=True)], axis=1).ravel())
            first += size
        return np.concatenate([*parts, np.full(first, second.sum(0).mean()), second.sum(0)])

    def penalized(self, k: int) -> Float[np.ndarray, " m"]:
        """All but the intercepts."""
        return np.append(np.ones(self.n_variables(k) - k), np.zeros(k))

    def forward(
        self, theta: Float[np.ndarray, "m q"], k: int, which: Int[np.ndarray, " q"]
    ) -> tuple[Float[np.ndarray, "n q k"], Any]:
        """Project every vector, then weight: sum_t a_t (W x_t)."""
        q, first, projected = theta.shape[1], 0, []
        for X, d, size in zip(self.groups, self.widths, self.sizes, strict=True):
            block = theta[first : first + d * (k + 1)].reshape(d, (k + 1) * q)
            projected.append(np.asarray(X @ block).reshape(size, self.n, k + 1, q))
            first += d * (k + 1)
        P = np.concatenate(projected)
        scores = P[:, :, k] + (self.start_b[:, None] + theta[first : first + len(P)])[:, None]
        weights = scipy.special.softmax(scores, axis=0)
        out = np.einsum("tnq,tnkq->nqk", weights, P[:, :, :k]) + theta[first + len(P) :].T
        return out, (P, weights)

    def backward(self, slope: Float[np.ndarray, "n q k"], kept: Any) -> Float[np.ndarray, "m q"]:
        """Through the projections and through the weights."""
        P, weights = kept
        n, q, k = slope.shape
        by_weight = np.einsum("tnkq,nqk->tnq", P[:, :, :k], slope)
        by_score = weights * (by_weight - (weights * by_weight).sum(0))
        by_projection = np.empty((len(P), n, k + 1, q))
        by_projection[:, :, :k] = weights[:, :, None] * slope.transpose(0, 2, 1)
        by_projection[:, :, k] = by_score
        parts, first = [], 0
        for X, size in zip(self.groups, self.sizes, strict=True):
            own = by_projection[first : first + size].reshape(size * n, (k + 1) * q)
            parts.append(np.asarray(X.T @ own).reshape(-1, q))
            first += size
        return np.concatenate([*parts, by_score.sum(1), slope.sum(0).T])


def probe(
    X: Bags,
    y: Shaped[np.ndarray, " n"],
    folds: Folds,
    *,
    n_classes: int | None,
    grid: Sequence[float] = GRID,
    max_iter: int = 200,
    only: Sequence[int] | None = None,
) -> Probe:
    """As `probes.probe`, for a bag of vectors per unit.

    Every column of every cell has unit variance. The fit is not convex: the first weights prefer the
    cells from which a ridge regression predicts the inner folds, and everything else starts at 0.
    """
    for cell in X.cells:
        check_matrix(cell, y)

    def one(fold: int, loss: Loss) -> Fold:
        train, test = np.flatnonzero(folds.outer != fold), np.flatnonzero(folds.outer == fold)
        inner = folds.inner[fold, train]
        start_b = _first_weights(X, train, y[train], inner, n_classes)
        pairs = [_stacked(group, train, test) for group in X.groups]
        model = Attention([a for a, _ in pairs], len(train), start_b)
        model_test = Attention([b for _, b in pairs], len(test), start_b)
        return fit_fold(model, model_test, loss, inner, grid=grid, max_iter=max_iter)

    width = sum(shape(group[0])[1] for group in X.groups)
    return each_fold(one, y, folds, n_classes=n_classes, n_features=width, only=only)


def _first_weights(
    X: Bags, train: np.ndarray, y: np.ndarray, inner: np.ndarray, n_classes: int | None
) -> Float[np.ndarray, " t"]:
    targets, found = one_hot(y, n_classes), []
    for cell in X.cells:
        outputs = ridge_outputs(rows(cell, train), targets, inner)
        if n_classes is None:
            found.append(1 - ((outputs[:, 0] - y) ** 2).mean() / max(float(y.var()), 1e-300))
        else:
            found.append((outputs.argmax(1) == y).mean())
    return SHARPNESS * (np.array(found) - max(found))


def _stacked(group: list[Matrix], train: np.ndarray, test: np.ndarray) -> tuple[Matrix, Matrix]:
    """The cells of a group below each other, scaled by the training units; training and test."""
    pairs = [_scaled(rows(cell, train), rows(cell, test)) for cell in group]
    a, b = (stack(list(side)) for side in zip(*pairs, strict=True))
    if isinstance(a, np.ndarray) and a.shape[1] <= MAX_ROTATED:
        axes = scipy.linalg.eigh(a.T @ a, driver="evd")[1]
        return a @ axes, dense(b) @ axes
    return a, b


def _scaled(train: Matrix, test: Matrix) -> tuple[Matrix, Matrix]:
    train, test = precise(train), precise(test)
    mean, std, largest = moments(train)
    inverse = np.divide(1.0, std, out=np.zeros_like(std), where=std > 1e-7 * np.maximum(largest, 1e-300))
    if isinstance(train, np.ndarray):
        return (train - mean) * inverse, (dense(test) - mean) * inverse
    weights = sp.diags_array(inverse)
    return sp.csr_array(train @ weights), sp.csr_array(test @ weights)
