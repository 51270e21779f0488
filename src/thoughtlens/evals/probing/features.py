"""A fold's features as its learner sees them: scaled by the training units, on their principal axes."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from jaxtyping import Bool, Float, Shaped

from thoughtlens.evals.probing.matrices import Matrix, columns, dense, moments, precise, shape

SPAN = 1e-12
"""Principal axes with less than this share of the strongest one's spread hold nothing but rounding."""
SCALER = "unit variance per feature, fitted on the outer training fold; constant features dropped"


def scale(train: Matrix, test: Matrix) -> tuple[Matrix, Matrix]:
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


def rotate(train: Matrix, test: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """The same units on the training units' principal axes (uncentred), at most as many as units.

    An L2-penalised linear fit does not change under a rotation, and never leaves the span of its rows.
    On these axes the Hessian is nearly diagonal, which the learner uses.
    """
    n, d = shape(train)
    gram = dense(train.T @ train if d <= n else train @ train.T)
    spread, axes = scipy.linalg.eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
    kept = spread > SPAN * max(spread[-1], np.finfo(float).tiny) if len(spread) else np.zeros(0, bool)
    spread, axes = spread[kept], axes[:, kept]
    if d <= n:
        return dense(train @ axes), dense(test @ axes)
    length = np.sqrt(spread)
    return axes * length, dense(test @ train.T) @ (axes / length)


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
    mean, _, largest = moments(X[kept] if isinstance(X, np.ndarray) else X[np.flatnonzero(kept)])
    square = np.asarray((X * X if isinstance(X, np.ndarray) else X.multiply(X)).T @ kept.astype(float))
    variance = square / n - mean**2
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
