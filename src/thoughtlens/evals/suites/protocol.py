"""The probing protocol of sae-probes 0.4, reproduced: its split, its ranking of latents, its fits.

Kantamneni, Engels, Rajamanoharan, Tegmark, Nanda 2025, "Are Sparse Autoencoders Useful?"
(arXiv:2502.16681), setting "normal". Numbers equal those of the package on the same activations.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from thoughtlens.core import DataError

CS = np.logspace(5, -5, 10)
MAX_ITER = 1000
MAX_ROWS, MAX_TRAIN, MIN_TEST, MAX_VALIDATION = 5000, 1024, 100, 100
MIN_ROWS = 2 * MIN_TEST
"""Rows that the split needs: a hundred to test on, and as many to train on."""
FOLDED = 128
"""Training rows below which C is chosen by six folds, and not by the last rows."""

DEFINITIONS = {
    "auc": "area under the ROC curve of p(second class) on the test rows",
    "accuracy": "share of test rows whose class is predicted",
    "f1": "F1 of both classes, weighted by their test rows",
    "val_auc": "AUC on the validation rows at the C chosen by it",
    "k": "latents the probe sees: those whose class means differ most over the training rows, each latent "
    "divided by the mean of its activations other than 0; none: all coordinates of the raw activations",
}


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers to train on and to test on, in the order in which the protocol uses them."""

    train: Int[np.ndarray, " n_train"]
    test: Int[np.ndarray, " n_test"]


@dataclass(frozen=True, eq=False)
class Fitted:
    """One probe's scores, and what it says of every test row."""

    auc: float
    accuracy: float
    f1: float
    val_auc: float
    c: float
    converged: bool
    p: Float[np.ndarray, " n_test"]
    """Probability of the second class."""


def split(y: Int[np.ndarray, " n"], seed: int) -> Split:
    """At most 1,024 training rows, the rest but one to test on, both half of each class.

    Raises:
        DataError: too few rows, or too few of one class.
    """
    y = y[:MAX_ROWS]
    if len(y) < MIN_ROWS:
        raise DataError(f"sae-probes' protocol needs at least {MIN_ROWS} rows, got {len(y)}")
    n_train = min(len(y) - MIN_TEST, MAX_TRAIN)
    n_test = len(y) - n_train - 1
    rng = np.random.RandomState(seed)
    wanted = [[_half(n_train, c), _half(n_test, c)] for c in (1, 0)]
    own = [np.flatnonzero(y == c) for c in (1, 0)]
    for c, rows, (a, b) in zip((1, 0), own, wanted, strict=True):
        if len(rows) < a + b:
            raise DataError(
                f"sae-probes' protocol needs {a + b} rows of class {c}, got {len(rows)} of {len(y)}: its "
                f"sets are balanced"
            )
    train = [rng.choice(rows, size=a, replace=False) for rows, (a, _) in zip(own, wanted, strict=True)]
    left = [np.setdiff1d(rows, taken) for rows, taken in zip(own, train, strict=True)]
    test = [rng.choice(rows, size=b, replace=False) for rows, (_, b) in zip(left, wanted, strict=True)]
    return Split(rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test)))


def _half(n: int, c: int) -> int:
    more = -(-n // 2)
    return more if c == 1 else n - more


def ranking(acts: Float[Tensor, "n_train d_sae"], y: Int[np.ndarray, " n_train"]) -> Int[Tensor, " d_sae"]:
    """Latents by how far apart their class means are, in units of their mean activation where they fire."""
    means = acts.abs().sum(0) / ((acts != 0).sum(0) + 1e-6)
    scaled = acts / (means + 1e-6)
    one = torch.from_numpy(y == 1)
    return (scaled[one].mean(0) - scaled[~one].mean(0)).abs().argsort(descending=True)


def fit(
    X: Float[np.ndarray, "n_train k"],
    y: Int[np.ndarray, " n_train"],
    X_test: Float[np.ndarray, "n_test k"],
    y_test: Int[np.ndarray, " n_test"],
    *,
    penalty: Literal["l1", "l2"],
    seed: int,
) -> Fitted:
    """A logistic regression without scaling, C by validation AUC, refitted on all training rows."""
    validation = [_validation_auc(X, y, c, penalty, seed) for c in CS]
    best = int(np.argmax(validation))
    order = np.random.RandomState(seed).permutation(len(X))
    model = _regression(CS[best], penalty, seed, X[order], y[order])
    p, pred = model.predict_proba(X_test)[:, 1], model.predict(X_test)
    return Fitted(
        auc=float(roc_auc_score(y_test, p)),
        accuracy=float(accuracy_score(y_test, pred)),
        f1=float(f1_score(y_test, pred, average="weighted")),
        val_auc=float(validation[best]),
        c=float(CS[best]),
        converged=bool(model.n_iter_.max() < MAX_ITER),
        p=p.astype(float),
    )


def _validation_auc(X: np.ndarray, y: np.ndarray, c: float, penalty: str, seed: int) -> float:
    found = []
    for train, held in _validation(y, seed):
        model = _regression(c, penalty, seed, X[train], y[train])
        found.append(roc_auc_score(y[held], model.predict_proba(X[held])[:, 1]))
    return float(np.mean(found))


def _validation(y: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rows = np.arange(len(y))
    if len(y) < FOLDED:
        yield from StratifiedKFold(6, shuffle=True, random_state=seed).split(rows, y)
        return
    n = len(y) - min(int(0.2 * len(y)), MAX_VALIDATION)
    yield rows[:n], rows[n:]


def _regression(c: float, penalty: str, seed: int, X: np.ndarray, y: np.ndarray) -> LogisticRegression:
    options: dict[str, Any] = {"C": c, "random_state": seed, "max_iter": MAX_ITER}
    if penalty == "l1":
        old = LogisticRegression().penalty == "l2"  # scikit-learn before 1.8 knows no l1_ratio of its own
        options |= {"solver": "saga", **({"penalty": "l1"} if old else {"l1_ratio": 1.0})}
    with warnings.catch_warnings():
        # unscaled rows at C = 1e5 do not converge; the protocol takes them as they are, `converged` says it
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(**options).fit(X, y)
