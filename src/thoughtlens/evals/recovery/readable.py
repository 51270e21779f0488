"""What a place tells of a variable without a dictionary: a linear probe, the variance between values."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import LinAlgWarning
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

PROBE_ROWS = 6_000
"""Training rows that a probe is fitted on."""


@dataclass(frozen=True, eq=False)
class Ceiling:
    """On held-out rows."""

    right: Bool[np.ndarray, " rows"]
    """Whether the probe says the row's value."""
    within: Float[np.ndarray, " rows"]
    """Squared distance of each row from the training mean of its value, and from that of all rows."""
    total: Float[np.ndarray, " rows"]

    @property
    def variance_share(self) -> float:
        """Eta squared: 1 - within / total, with the means of training rows."""
        return 1 - float(self.within.sum() / max(self.total.sum(), 1e-30))


def ceilings(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], held_out: list[tuple[np.ndarray, np.ndarray]]
) -> list[Ceiling]:
    """A ridge classifier (penalty 1, standardised) and class means from training rows, on held-out rows.

    Args:
        x: Training rows.
        y: Their values.
        held_out: Rows and values, for each split to be judged; values as in `y`.
    """
    means = np.zeros((int(max([y.max(), *(own.max() for _, own in held_out)])) + 1, x.shape[1]))
    known = np.unique(y)
    means[:] = x.mean(0)
    for value in known:
        means[value] = x[y == value].mean(0)
    scaler = StandardScaler().fit(x[:PROBE_ROWS])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)
        probe = RidgeClassifier(1.0).fit(scaler.transform(x[:PROBE_ROWS]), y[:PROBE_ROWS])
    return [
        Ceiling(
            probe.predict(scaler.transform(rows)) == own,
            ((rows - means[own]) ** 2).sum(1),
            ((rows - x.mean(0)) ** 2).sum(1),
        )
        for rows, own in held_out
    ]
