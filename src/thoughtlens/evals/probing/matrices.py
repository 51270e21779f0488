"""Feature matrices that are dense or CSR, whichever is smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Shaped

Matrix = np.ndarray | sp.csr_array
FULL = 0.25
"""Share of entries other than 0 above which a matrix is kept dense."""


def shape(m: Matrix) -> tuple[int, int]:
    """Rows and columns."""
    whole: Any = m
    return int(whole.shape[0]), int(whole.shape[1])


def dense(m: np.ndarray | sp.sparray) -> np.ndarray:
    """The matrix (or vector), in whatever sparse format, as an array."""
    whole: Any = m
    return whole if isinstance(whole, np.ndarray) else whole.toarray()


def precise(m: Matrix) -> Matrix:
    """The matrix in float64."""
    whole: Any = m
    return whole.astype(np.float64)


def rows(m: Matrix, index: Shaped[np.ndarray, " n"]) -> Matrix:
    """Some rows, by number or mask."""
    return m[index] if isinstance(m, np.ndarray) else sp.csr_array(m[index])


def columns(m: Matrix, index: Shaped[np.ndarray, " n"]) -> Matrix:
    """Some columns, by number or mask."""
    return m[:, index] if isinstance(m, np.ndarray) else sp.csr_array(m[:, index])


def join(parts: Sequence[Matrix]) -> Matrix:
    """Side by side; CSR only if all are."""
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([dense(part) for part in parts], axis=1)
    return sp.csr_array(sp.hstack(list(parts), format="csr"))


def stack(parts: Sequence[Matrix]) -> Matrix:
    """Rows below rows; CSR only if all are."""
    if any(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([dense(part) for part in parts])
    return sp.csr_array(sp.vstack(list(parts), format="csr"))


def compact(m: Matrix) -> Matrix:
    """CSR where few entries are not 0, dense where many are."""
    n, d = shape(m)
    if isinstance(m, np.ndarray):
        return sp.csr_array(m) if np.count_nonzero(m) <= FULL * n * d else m
    return dense(m) if m.nnz > FULL * n * d else m


def mean(parts: Sequence[Matrix]) -> Matrix:
    """Mean of matrices of one shape."""
    total: Any = parts[0]
    for part in parts[1:]:
        total = total + part if _both_sparse(total, part) else dense(total) + dense(part)
    return total / np.float32(len(parts))


def maximum(parts: Sequence[Matrix]) -> Matrix:
    """Largest entry at each place, of matrices of one shape."""
    top: Any = parts[0]
    for part in parts[1:]:
        top = top.maximum(part) if _both_sparse(top, part) else np.maximum(dense(top), dense(part))
    return top


def fires(m: Matrix) -> Matrix:
    """1 where an entry is above 0, else 0."""
    if isinstance(m, np.ndarray):
        return (m > 0).astype(np.float32)
    positive: Any = m > 0
    return sp.csr_array(positive, dtype=np.float32)


def moments(
    m: Matrix,
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Mean, standard deviation and largest magnitude of every column."""
    if isinstance(m, np.ndarray):
        return m.mean(0), m.std(0), np.abs(m).max(0)
    n, d = shape(m)
    mean_ = np.asarray(m.mean(0)).ravel()
    largest: Any = abs(m).max(0)
    stored = np.bincount(m.indices, minlength=d)
    square = np.bincount(m.indices, (m.data - mean_[m.indices]) ** 2, minlength=d)
    return mean_, np.sqrt((square + (n - stored) * mean_**2) / n), dense(largest).ravel()


def _both_sparse(a: Matrix, b: Matrix) -> bool:
    return not isinstance(a, np.ndarray) and not isinstance(b, np.ndarray)
