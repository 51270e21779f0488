"""Scores of out-of-fold predictions, with intervals over groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
from jaxtyping import Float, Int, Shaped

from thoughtlens.evals.probing.probes import Probe
from thoughtlens.evals.probing.records import ClassReport, ClassScores, ValueScores
from thoughtlens.numerics import SHARED_TRAINING, mean_by_clusters, proportion, resampled, wilson

N_RESAMPLES = 2000
DEFINITIONS = {
    "accuracy": "share of units whose out-of-fold prediction is right; Wilson interval at the number of "
    "independent units that they are worth: by their groups, and half as many where folds share training "
    "units",
    "balanced_accuracy": "mean over classes of recall",
    "macro_f1": "mean over classes of F1 = 2 precision recall / (precision + recall), 0 where undefined; "
    "bootstrap over groups, widened for shared training units",
    "log_loss": "mean of -ln p(true class), nats",
    "r2": "1 - sum of squared errors / sum of squares about the mean of all units, out of fold; Student's "
    "interval over groups, widened for shared training units",
    "mean_absolute_error": "mean |y - prediction|, in the target's unit",
    "rmse": "root of the mean squared error, in the target's unit",
    "spearman": "rank correlation of target and prediction; none where one is constant",
    "knows_above_guessing": "lower end of the 95 % interval of balanced accuracy minus that of a guess (one "
    "in the number of classes), or of R squared; none: one class only was predicted, or one number",
    "precision": "of the units given this class, the share that are of it",
    "recall": "of the units of this class, the share given it",
}


def confusion(
    y: Int[np.ndarray, " n"], pred: Int[np.ndarray, " n"], n_classes: int
) -> Int[np.ndarray, "n_classes n_classes"]:
    """Counts: rows are true classes, columns predictions."""
    return np.bincount(y * n_classes + pred, minlength=n_classes**2).reshape(n_classes, n_classes)


def per_class(
    y: Int[np.ndarray, " n"],
    pred: Int[np.ndarray, " n"],
    classes: Sequence[str],
    groups: Int[np.ndarray, " n"],
    *,
    inflation: float = 1.0,
) -> list[ClassReport]:
    """Precision, recall and F1 of every class, with intervals of the first two as accuracy has them."""
    rows = []
    for i, name in enumerate(classes):
        given, own = pred == i, y == i
        hit, total = int((given & own).sum()), int(given.sum() + own.sum())
        precision, recall = (
            proportion(other[here], groups[here], inflation=inflation) if here.any() else None
            for here, other in ((given, own), (own, given))
        )
        rows.append(
            ClassReport(
                name=name,
                n=int(own.sum()),
                n_predicted=int(given.sum()),
                precision=precision and precision.estimate,
                precision_low=precision and precision.low,
                precision_high=precision and precision.high,
                recall=recall and recall.estimate,
                recall_low=recall and recall.low,
                recall_high=recall and recall.high,
                f1=2 * hit / total if total else 0.0,
            )
        )
    return rows


def score(
    y: Int[np.ndarray, " n"],
    pred: Int[np.ndarray, " n"],
    proba: Float[np.ndarray, "n n_classes"],
    groups: Int[np.ndarray, " n"],
    *,
    seed: int,
    inflation: float = 1.0,
) -> ClassScores:
    """Accuracy, balanced accuracy, macro F1 and log-loss; definitions in `DEFINITIONS`."""
    n_classes = proba.shape[1]
    accuracy = proportion(y == pred, groups, inflation=inflation)
    f1, low, high = _macro_f1(y, pred, groups, n_classes, seed)
    matrix = confusion(y, pred, n_classes)
    true = proba[np.arange(len(y)), y]
    wider = np.sqrt(inflation)
    return ClassScores(
        n=len(y),
        n_groups=len(np.unique(groups)),
        accuracy=accuracy.estimate,
        low=accuracy.low,
        high=accuracy.high,
        interval=accuracy.method,
        balanced_accuracy=float(np.mean(np.diag(matrix) / np.maximum(matrix.sum(1), 1))),
        macro_f1=f1,
        macro_f1_low=max(0.0, f1 - wider * (f1 - low)),
        macro_f1_high=min(1.0, f1 + wider * (high - f1)),
        log_loss=float(-np.log(np.maximum(true, 1e-12)).mean()),
    )


def skill(
    y: Float[np.ndarray, " n"],
    pred: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    inflation: float = 1.0,
) -> ValueScores:
    """R squared, errors and rank correlation of a predicted number; definitions in `DEFINITIONS`."""
    found = mean_by_clusters(unit_skill(y, pred), groups, inflation=inflation)
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
        spearman=None if constant else float(np.asarray(scipy.stats.spearmanr(y, pred))[0]),
    )


def above_guessing(
    y: Shaped[np.ndarray, " n"],
    pred: Shaped[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    classes: bool,
    outer: Int[np.ndarray, " n"] | None = None,
) -> float | None:
    """`knows_above_guessing` of `DEFINITIONS`; None where every fold predicts the same of all its units.

    Args:
        y: Class codes, or numbers.
        pred: What was predicted.
        groups: Group of each unit.
        classes: Whether `y` are classes.
        outer: Outer fold of each unit; None: one fit predicted all.
    """
    fold = np.zeros(len(y), int) if outer is None else outer
    if all(np.ptp(pred[fold == i]) == 0 for i in np.unique(fold)):
        return None
    if classes:
        own = np.bincount(y)[y] / len(y)
        n_classes = len(np.unique(y))
        skill = (pred == y) / (n_classes * own) - 1 / n_classes
    else:
        skill = unit_skill(y, pred)
    return mean_by_clusters(skill, groups, inflation=1.0 if outer is None else SHARED_TRAINING).low


def unit_scores(p: Probe, y: np.ndarray) -> Shaped[np.ndarray, " n"]:
    """Which units are right; of a number, each unit's skill."""
    return p.pred == y if p.proba.shape[1] else unit_skill(y, p.pred)


def unit_skill(y: Float[np.ndarray, " n"], pred: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 - squared error / variance of y, of every unit: its mean is R squared."""
    return 1 - (y - pred) ** 2 / y.var()


def _macro_f1(
    y: np.ndarray, pred: np.ndarray, groups: np.ndarray, n_classes: int, seed: int
) -> tuple[float, float, float]:
    """Macro F1 and its percentile interval over resampled groups; at an end Wilson's for as many."""
    index = np.unique(groups, return_inverse=True)[1]
    n = index.max() + 1
    counts = np.zeros((n, n_classes**2))
    np.add.at(counts, (index, y * n_classes + pred), 1)
    draws = _f1(resampled(counts, N_RESAMPLES, seed), n_classes)
    low, high = np.quantile(draws, [0.025, 0.975])
    f1 = float(_f1(counts.sum(0)[None], n_classes)[0])
    if low == high and f1 in (0, 1):
        ends = wilson(round(f1) * int(n), int(n))
        low, high = ends.low, ends.high
    return f1, float(low), float(high)


def _f1(flat: np.ndarray, n_classes: int) -> np.ndarray:
    matrix = flat.reshape(-1, n_classes, n_classes)
    hit = matrix.diagonal(axis1=1, axis2=2)
    total = matrix.sum(1) + matrix.sum(2)
    return np.divide(2 * hit, total, out=np.zeros_like(hit, dtype=float), where=total > 0).mean(1)
