"""What a place tells of a variable without a dictionary: a linear probe, the variance between values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

PROBE_ROWS = 6_000
"""Training rows that a probe is fitted on."""
PENALTY = 1.0


@dataclass(frozen=True, eq=False)
class Ceiling:
    """On held-out rows."""

    right: Bool[np.ndarray, " rows"]
    """Whether the probe says the row's value."""
    likeliest: Bool[np.ndarray, " rows"]
    """Whether the most frequent value of the training rows is the row's."""
    within: Float[np.ndarray, " rows"]
    """Squared distance of each row from the training mean of its value, and from that of all rows."""
    total: Float[np.ndarray, " rows"]

    @property
    def variance_share(self) -> float:
        """Eta squared: 1 - within / total, with the means of training rows."""
        return 1 - float(self.within.sum() / max(self.total.sum(), 1e-30))


class Reader:
    """What training rows of a place teach, solved once and asked about many variables.

    The probe is a ridge classifier: least squares on standardised states with penalty 1, a target of 1 for
    the row's value and -1 for each other, the largest wins (`sklearn.linear_model.RidgeClassifier`).
    """

    def __init__(self, x: Float[np.ndarray, "n d"]) -> None:
        self.x, self.mean = x, x.mean(0)
        self.centre, spread = x[:PROBE_ROWS].mean(0), x[:PROBE_ROWS].std(0)
        self.spread = np.where(spread > 0, spread, 1.0)
        self.z = (x[:PROBE_ROWS] - self.centre) / self.spread
        gram = self.z.T @ self.z + PENALTY * np.eye(x.shape[1])
        self.factor = scipy.linalg.cho_factor(gram, overwrite_a=True, check_finite=False)

    def says(
        self, y: Int[np.ndarray, " n"], n_values: int, rows: Float[np.ndarray, "m d"]
    ) -> Float[np.ndarray, "m v"]:
        """What the probe of values `y` (of the training rows) says of other rows; unseen values: -inf."""
        few = one_hot(y[: len(self.z)], n_values)
        weight = scipy.linalg.cho_solve(self.factor, (2 * (few.T @ self.z)).T, check_finite=False)
        share = few.sum(0) / len(self.z)
        return (rows - self.centre) / self.spread @ weight + np.where(share > 0, 2 * share - 1, -np.inf)

    def ceiling(
        self, y: Int[np.ndarray, " n"], rows: Float[np.ndarray, "m d"], own: Int[np.ndarray, " m"]
    ) -> Ceiling:
        """The probe and the class means of values `y` (of the training rows, from 0 on), on held-out rows."""
        n_values = int(max(y.max(), own.max())) + 1
        values, n = one_hot(y, n_values), np.bincount(y, minlength=n_values)[:, None]
        means = np.where(n > 0, values.T @ self.x / np.maximum(n, 1), self.mean)
        return Ceiling(
            self.says(y, n_values, rows).argmax(1) == own,
            own == n.argmax(),
            ((rows - means[own]) ** 2).sum(1),
            ((rows - self.mean) ** 2).sum(1),
        )


def one_hot(y: Int[np.ndarray, " rows"], n_values: int) -> sp.csr_array:
    """[rows, values]; a row of -1 has none."""
    known = np.flatnonzero(y >= 0)
    return sp.csr_array((np.ones(len(known)), (known, y[known])), shape=(len(y), n_values))
