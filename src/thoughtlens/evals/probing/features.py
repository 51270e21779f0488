"""A fold's features as its learner sees them: scaled by the training units, on their principal axes."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from jaxtyping import Bool, Float, Shaped

from thoughtlens.evals.probing.matrices import Matrix, columns, dense, moments, precise, rows, shape

SPAN = 1e-12
"""Principal axes with less than this share of the strongest one's spread hold nothing but rounding."""
SCALER = "unit variance per feature, fitted on the outer training fold; constant features dropped"


def scale(train: Matrix, test: Matrix) -> tuple[Matrix, Matrix]:
    """Unit variance, centred; CSR with more columns than rows is centred by `kernels`."""
    n, d = shape(train)
    train, test = (dense(m) if d <= n else m for m in (precise(train), precise(test)))
    mean, std, largest = moments(train)
    alive = std > 1e-7 * np.maximum(largest, 1e-300)
    both = columns(train, alive), columns(test, alive)
    if isinstance(train, np.ndarray):
        a, b = ((m - mean[alive]) / std[alive] for m in both)
    else:
        weights = sp.diags_array(1 / std[alive])
        a, b = (sp.csr_array(m @ weights) for m in both)
    return a, b


def rotate(train: Matrix, test: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """The same units on the training units' principal axes, at most as many as units.

    An L2-penalised linear fit does not change under a rotation, and never leaves the span of its rows.
    On these axes the Hessian is nearly diagonal, which the learner uses.
    """
    n, d = shape(train)
    gram, across = (dense(train.T @ train), None) if d <= n else kernels(train, test)
    spread, axes = scipy.linalg.eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
    kept = spread > SPAN * max(spread[-1], np.finfo(float).tiny) if len(spread) else np.zeros(0, bool)
    spread, axes = spread[kept], axes[:, kept]
    if across is None:
        return dense(train @ axes), dense(test @ axes)
    length = np.sqrt(spread)
    return axes * length, across @ (axes / length)


def kernels(train: Matrix, test: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Inner products of the training units with each other, and of the test units with them.

    Of CSR matrices, which `scale` leaves uncentred, those of the centred ones. Uncentred, a column that
    hardly varies around a large value is all that counts.
    """
    gram, across = dense(train @ train.T), dense(test @ train.T)
    if isinstance(train, np.ndarray):
        return gram, across
    mean = gram.mean(0)
    return (
        gram - mean - mean[:, None] + mean.mean(),
        across - across.mean(1, keepdims=True) - mean + mean.mean(),
    )


def one_hot(y: Shaped[np.ndarray, " n"], n_classes: int | None) -> Float[np.ndarray, "n k"]:
    """Classes as columns of 0 and 1; a number as one column."""
    return y[:, None].astype(float) if n_classes is None else np.eye(n_classes)[y]


def association(
    X: Matrix, targets: Float[np.ndarray, "n k"], kept: Bool[np.ndarray, " n"], *, classes: bool
) -> Float[np.ndarray, " d"]:
    """Share of each feature's variance over the rows `kept` that the target explains, on its own.

    Of classes that is eta squared, between-class variance over variance, which orders features as
    ANOVA's F does; of a number, the squared correlation. 0 for features that do not vary.
    """
    T = targets * kept[:, None]
    n = kept.sum()
    mean, std, largest = moments(rows(precise(X), np.flatnonzero(kept)))
    variance = std**2
    sums = np.asarray(X.T @ T)
    if classes:
        count = np.maximum(T.sum(0), 1)
        between = ((sums / count - mean[:, None]) ** 2 * count).sum(1) / n
    else:
        centre = T.sum(0) / n
        spread = ((targets - centre) ** 2 * kept[:, None]).sum() / n
        between = (sums / n - mean[:, None] * centre)[:, 0] ** 2 / max(spread, 1e-300)
    alive = variance > (1e-7 * np.maximum(largest, 1e-300)) ** 2
    return np.divide(between, variance, out=np.zeros_like(variance), where=alive)
