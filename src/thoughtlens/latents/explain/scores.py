"""How well a predictor foretells where a latent fires, at the rate at which it truly fires."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from thoughtlens.numerics import Interval, cluster_bootstrap

LEVELS = 256
"""Most thresholds behind an interval; the estimate itself uses all of them."""
DEFINITIONS = {
    "auprc": "average precision of the explanation's prediction for 'the latent fires here' over all test "
    "vectors, at the true base rate: sum over thresholds of (recall gained) x precision; 1 is perfect, "
    "base_rate is chance",
    "auprc_low, auprc_high": "95% interval: groups of test problems resampled together",
    "precision_at_half_recall": "largest precision of a threshold that finds at least half of the fires",
    "precision, recall": "at the threshold with the best F1 on the validation problems",
    "pearson": "correlation of the prediction with the activation over all test vectors, zeros included; "
    "null where the prediction is constant",
    "base_rate": "share of the test vectors on which the latent fires",
    "n, n_units, n_fires": "test vectors, the problems they belong to, and those on which the latent fires",
    "token_auprc": "auprc of the token lookup on the same vectors",
    "verdict": "no better than chance: auprc_low is not above base_rate and random_auprc; else strong (auprc "
    ">= 0.75), fair (>= 0.5) or weak; and whether auprc_low is above token_auprc",
    "random_auprc": "auprc of the same method for a random twin, which fires as often in every problem, on "
    "vectors drawn at random; the twin is explained in its own right, except that token_graph and llm, which "
    "would have to run it through a model, are scored on its fires as they stand",
}


STRONG, FAIR = 0.75, 0.5
NO_BETTER = "no better than chance"


def verdict_of(auprc: float, low: float, chance: float, lookup: float | None) -> str:
    """What a score says of an explanation: whether it is above chance, how good it is, what its rival does.

    Args:
        auprc: On the test problems.
        low: Lower end of its interval.
        chance: The larger of base rate and the random twin's score.
        lookup: The token lookup's score on the same vectors; None for the lookup itself.
    """
    if low <= chance:
        return NO_BETTER
    word = "strong" if auprc >= STRONG else "fair" if auprc >= FAIR else "weak"
    return word if lookup is None or low > lookup else f"{word}, not shown to beat the token lookup"


@dataclass(frozen=True, kw_only=True)
class Score:
    """The numbers of one predictor on one part; see `DEFINITIONS`."""

    auprc: float
    precision_at_half_recall: float
    pearson: float | None
    precision: float
    recall: float
    base_rate: float
    n: int
    n_units: int
    n_fires: int


def auprc(
    fires: Bool[np.ndarray, " n"],
    prediction: Float[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | None = None,
) -> float:
    """Average precision; 0 where nothing fires."""
    if not fires.any():
        return 0.0
    from sklearn.metrics import average_precision_score  # here: it takes a second to load

    return float(average_precision_score(fires, prediction, sample_weight=weight))


def best_threshold(
    fires: Bool[np.ndarray, " n"],
    prediction: Float[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | None = None,
) -> float:
    """The threshold (prediction >= it) with the best F1; infinite where nothing fires."""
    if not fires.any():
        return float("inf")
    from sklearn.metrics import precision_recall_curve

    precision, recall, at = precision_recall_curve(fires, prediction, sample_weight=weight)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(at[int(np.argmax(f1[:-1]))])


def score(
    acts: Float[np.ndarray, " n"],
    prediction: Float[np.ndarray, " n"],
    unit: Int[np.ndarray, " n"],
    threshold: float,
    weight: Float[np.ndarray, " n"] | None = None,
) -> Score:
    """Score a prediction against a latent's activations, larger meaning that it fires there.

    Args:
        acts: The latent's activation on every vector.
        prediction: What is scored.
        unit: The problem of every vector.
        threshold: From `best_threshold` on other problems.
        weight: How many vectors each stands for; None: one.
    """
    from sklearn.metrics import precision_recall_curve

    fires, w = acts != 0, np.ones(len(acts)) if weight is None else weight
    found = prediction >= threshold
    hit = float(w[found & fires].sum())
    total = float(w[fires].sum())
    half = 0.0
    if fires.any():
        precision, recall, _ = precision_recall_curve(fires, prediction, sample_weight=weight)
        half = float(precision[recall >= 0.5].max())
    return Score(
        auprc=auprc(fires, prediction, weight),
        precision_at_half_recall=half,
        pearson=_pearson(acts.astype(float), prediction.astype(float), w),
        precision=hit / max(float(w[found].sum()), 1e-12),
        recall=hit / max(total, 1e-12),
        base_rate=total / float(w.sum()),
        n=len(acts),
        n_units=len(np.unique(unit)),
        n_fires=int(fires.sum()),
    )


def interval(
    fires: Bool[np.ndarray, " n"],
    prediction: Float[np.ndarray, " n"],
    cluster: Int[np.ndarray, " n"],
    *,
    n_resamples: int,
    seed: int,
    weight: Float[np.ndarray, " n"] | None = None,
) -> Interval:
    """Bootstrap interval of `auprc`, whole clusters resampled.

    Average precision changes only at the scores of vectors that fire. So all that a resample needs is, for
    each cluster, how many vectors and how many fires reach each of these scores. Beyond `LEVELS` scores,
    evenly spaced ones stand for all.

    Raises:
        DataError: nothing fires, or there is one cluster only.
    """
    names, index = np.unique(cluster, return_inverse=True)
    w = np.ones(len(fires)) if weight is None else weight
    levels = np.unique(prediction[fires])
    if len(levels) > LEVELS:
        levels = levels[np.linspace(0, len(levels) - 1, LEVELS).astype(int)]
    reached = np.searchsorted(levels, prediction, side="right")  # levels at or below the prediction
    shape = (len(names), len(levels) + 1)
    counts = [
        np.bincount(index * shape[1] + reached, v, minlength=shape[0] * shape[1]) for v in (w, w * fires)
    ]
    above, hits = (c.reshape(shape)[:, :0:-1].cumsum(1) for c in counts)

    def of_resample(times: Float[np.ndarray, " clusters"]) -> float:
        n, k = times @ above, times @ hits
        if k[-1] == 0:
            return float("nan")
        return float((np.diff(k, prepend=0.0) * k / np.maximum(n, 1e-12)).sum() / k[-1])

    return cluster_bootstrap(of_resample, np.arange(len(names)), n_resamples=n_resamples, seed=seed)


def twin(
    acts: Float[np.ndarray, " n"], unit: Int[np.ndarray, " n"], rng: np.random.Generator
) -> Float[np.ndarray, " n"]:
    """The activations, dealt out anew at random among the vectors of each problem; `unit` ascends."""
    return acts[np.lexsort((rng.random(len(acts)), unit))]


def _pearson(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> float | None:
    a, b = a - np.average(a, weights=w), b - np.average(b, weights=w)
    scale = np.sqrt(float((w * a * a).sum()) * float((w * b * b).sum()))
    return float((w * a * b).sum()) / scale if scale > 1e-12 else None
