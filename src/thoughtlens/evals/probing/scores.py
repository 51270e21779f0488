"""Scores of out-of-fold predictions, with intervals over groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import stats

from thoughtlens.evals.probing.probes import Probe
from thoughtlens.evals.probing.records import ClassReport, ClassScores, ValueScores
from thoughtlens.numerics import Interval, bootstrap_mean, wilson

N_RESAMPLES = 2000
DEFINITIONS = {
    "accuracy": "share of units whose out-of-fold prediction is right; Wilson interval where every unit is "
    "its own group, else bootstrap over groups",
    "balanced_accuracy": "mean over classes of recall",
    "macro_f1": "mean over classes of F1 = 2 precision recall / (precision + recall), 0 where undefined; "
    "bootstrap over groups",
    "log_loss": "mean of -ln p(true class), nats",
    "r2": "1 - sum of squared errors / sum of squares about the mean of all units, out of fold; bootstrap "
    "over groups",
    "mean_absolute_error": "mean |y - prediction|, in the target's unit",
    "rmse": "root of the mean squared error, in the target's unit",
    "spearman": "rank correlation of target and prediction; none where one is constant",
    "precision": "of the units given this class, the share that are of it",
    "recall": "of the units of this class, the share given it",
}


def confusion(
    y: Int[np.ndarray, " n"], pred: Int[np.ndarray, " n"], n_classes: int
) -> Int[np.ndarray, "n_classes n_classes"]:
    """Counts: rows are true classes, columns predictions."""
    return np.bincount(y * n_classes + pred, minlength=n_classes**2).reshape(n_classes, n_classes)


def per_class(matrix: Int[np.ndarray, "c c"], classes: Sequence[str]) -> list[ClassReport]:
    """Precision, recall and F1 of every class, with Wilson intervals of the first two over units."""
    rows = []
    for i, name in enumerate(classes):
        hit, given, own = int(matrix[i, i]), int(matrix[:, i].sum()), int(matrix[i].sum())
        precision, recall = (wilson(hit, n) if n else None for n in (given, own))
        rows.append(
            ClassReport(
                name=name,
                n=own,
                n_predicted=given,
                precision=precision and precision.estimate,
                precision_low=precision and precision.low,
                precision_high=precision and precision.high,
                recall=recall and recall.estimate,
                recall_low=recall and recall.low,
                recall_high=recall and recall.high,
                f1=2 * hit / (given + own) if given + own else 0.0,
            )
        )
    return rows


def share_right(right: Bool[np.ndarray, " n"], groups: Int[np.ndarray, " n"], seed: int) -> Interval:
    """Accuracy: Wilson's interval where every unit is its own group, else a bootstrap over groups."""
    if len(np.unique(groups)) == len(groups):
        return wilson(int(right.sum()), len(right))
    return bootstrap_mean(right, groups, seed=seed)


def score(
    y: Int[np.ndarray, " n"],
    pred: Int[np.ndarray, " n"],
    proba: Float[np.ndarray, "n n_classes"],
    groups: Int[np.ndarray, " n"],
    *,
    seed: int,
) -> ClassScores:
    """Accuracy, balanced accuracy, macro F1 and log-loss; definitions in `DEFINITIONS`."""
    n_classes = proba.shape[1]
    accuracy = share_right(y == pred, groups, seed)
    f1, low, high = _macro_f1(y, pred, groups, n_classes, seed)
    matrix = confusion(y, pred, n_classes)
    true = proba[np.arange(len(y)), y]
    return ClassScores(
        n=len(y),
        n_groups=len(np.unique(groups)),
        accuracy=accuracy.estimate,
        low=accuracy.low,
        high=accuracy.high,
        interval=accuracy.method,
        balanced_accuracy=float(np.mean(np.diag(matrix) / np.maximum(matrix.sum(1), 1))),
        macro_f1=f1,
        macro_f1_low=low,
        macro_f1_high=high,
        log_loss=float(-np.log(np.maximum(true, 1e-12)).mean()),
    )


def skill(
    y: Float[np.ndarray, " n"], pred: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"], *, seed: int
) -> ValueScores:
    """R squared, errors and rank correlation of a predicted number; definitions in `DEFINITIONS`."""
    found = bootstrap_mean(unit_skill(y, pred), groups, seed=seed)
    constant = np.ptp(pred) == 0 or np.ptp(y) == 0
    return ValueScores(
        n=len(y),
        n_groups=len(np.unique(groups)),
        r2=found.estimate,
        low=found.low,
        high=found.high,
        interval=found.method,
        mean_absolute_error=float(np.abs(y - pred).mean()),
        rmse=float(np.sqrt(((y - pred) ** 2).mean())),
        spearman=None if constant else float(np.asarray(stats.spearmanr(y, pred))[0]),
    )


def unit_scores(p: Probe, y: np.ndarray) -> Shaped[np.ndarray, " n"]:
    """Which units are right; of a number, each unit's skill."""
    return p.pred == y if p.proba.shape[1] else unit_skill(y, p.pred)


def unit_skill(y: Float[np.ndarray, " n"], pred: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 - squared error / variance of y, of every unit: its mean is R squared."""
    return 1 - (y - pred) ** 2 / y.var()


def _macro_f1(
    y: np.ndarray, pred: np.ndarray, groups: np.ndarray, n_classes: int, seed: int
) -> tuple[float, float, float]:
    """Macro F1 and its percentile interval over resampled groups."""
    index = np.unique(groups, return_inverse=True)[1]
    n = index.max() + 1
    counts = np.zeros((n, n_classes**2))
    np.add.at(counts, (index, y * n_classes + pred), 1)
    rng = np.random.default_rng(seed)
    draws = [
        _f1(rng.multinomial(n, np.full(n, 1 / n), size=100) @ counts, n_classes)
        for _ in range(N_RESAMPLES // 100)
    ]
    low, high = np.quantile(np.concatenate(draws), [0.025, 0.975])
    return float(_f1(counts.sum(0)[None], n_classes)[0]), float(low), float(high)


def _f1(flat: np.ndarray, n_classes: int) -> np.ndarray:
    matrix = flat.reshape(-1, n_classes, n_classes)
    hit = matrix.diagonal(axis1=1, axis2=2)
    total = matrix.sum(1) + matrix.sum(2)
    return np.divide(2 * hit, total, out=np.zeros_like(hit, dtype=float), where=total > 0).mean(1)
