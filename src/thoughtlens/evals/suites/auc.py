"""Area under the ROC curve with its interval, over thousands of resamples of a few thousand rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.numerics import Interval, cluster_bootstrap

Statistic = Callable[[Float[np.ndarray, " n"]], float]


def weighted_auc(y: Int[np.ndarray, " n"], p: Float[np.ndarray, " n"]) -> Statistic:
    """The AUC of p as a function of the rows' weights: the chance that a row of class 1 has the larger p.

    Ties count half; NaN where a class has no weight. p is sorted once.
    """
    order = np.argsort(p, kind="stable")
    one = y[order] == 1
    ranked = p[order]
    first, last = np.searchsorted(ranked, ranked, "left"), np.searchsorted(ranked, ranked, "right")

    def statistic(weight: Float[np.ndarray, " n"]) -> float:
        w = weight[order]
        below = np.concatenate([[0.0], np.cumsum(np.where(one, 0.0, w))])
        pairs = (w * one).sum() * below[-1]
        if pairs == 0:
            return float("nan")
        return float((w * one * (below[first] + below[last])).sum() / (2 * pairs))

    return statistic


def auc_interval(
    y: Int[np.ndarray, " n"],
    p: Sequence[Float[np.ndarray, " n"]],
    clusters: Int[np.ndarray, " n"],
    *,
    n_resamples: int,
    seed: int,
) -> Interval:
    """Cluster bootstrap of the AUC of one p, or of the difference of two on the same rows."""
    parts = [weighted_auc(y, one) for one in p]

    def statistic(weight: Float[np.ndarray, " n"]) -> float:
        found = [part(weight) for part in parts]
        return found[0] - found[1] if len(found) > 1 else found[0]

    return cluster_bootstrap(statistic, clusters, n_resamples=n_resamples, seed=seed, share=len(parts) == 1)
