"""Area under the ROC curve with its interval, over thousands of resamples of a few thousand rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from thoughtlens.numerics.stats.intervals import (
    N_RESAMPLES,
    Interval,
    cluster_bootstrap,
    cluster_index,
    drawn_weights,
    percentile,
    wilson,
)

Statistic = Callable[[Float[np.ndarray, " n"]], float]


def weighted_auc(y: Shaped[np.ndarray, " n"], p: Float[np.ndarray, " n"]) -> Statistic:
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


class Aucs:
    """The AUC of several scores of the same rows, and differences of them, all on the same resamples.

    Quantiles are widened for the number of clusters that hold the rarer class, on which the spread rests.
    """

    def __init__(
        self,
        y: Bool[np.ndarray, " n"],
        scores: dict[str, Float[np.ndarray, " n"]],
        clusters: Shaped[np.ndarray, " n"],
        *,
        n_resamples: int = N_RESAMPLES,
        seed: int = 0,
    ) -> None:
        index, n = cluster_index(clusters)
        self.n = min(len(np.unique(index[y])), len(np.unique(index[~y])))
        statistics = [weighted_auc(y, one) for one in scores.values()]
        whole = [one(np.ones(len(y))) for one in statistics]
        draws = [
            [one(weight) for one in statistics]
            for chunk in drawn_weights(n, n_resamples, seed)
            for weight in chunk.astype(float)[:, index]
        ]
        self._draws = dict(zip(scores, np.array([whole, *draws]).T, strict=True))

    def of(self, name: str) -> Interval:
        """One score's; where no resample moves it from an end, Wilson's bound for no failure."""
        found = percentile(float(self._draws[name][0]), self._draws[name][1:], self.n)
        if found.low < found.high or found.estimate not in (0, 1):
            return found
        ends = wilson(round(found.estimate) * self.n, self.n)
        return replace(found, low=ends.low, high=ends.high, method=ends.method)

    def difference(self, name: str, other: str) -> Interval:
        """The first less the second; where no resample moves it, within Wilson's bound for no failure."""
        gap = self._draws[name] - self._draws[other]
        found = percentile(float(gap[0]), gap[1:], self.n)
        if found.low < found.high:
            return found
        room = 1 - wilson(self.n, self.n).low
        return replace(found, low=max(found.low - room, -1.0), high=min(found.high + room, 1.0))
