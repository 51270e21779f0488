"""Which cell is best: every (hook, thought) by one cheap classifier, and tests that know how many were tried.

The classifier is a ridge regression of the classes with a fixed penalty. It has a closed form, so
hundreds of permutations of the labels cost one product; its scores rank cells and are not the headline.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int, Shaped
from threadpoolctl import threadpool_limits

from thoughtlens.core import n_threads
from thoughtlens.evals.probing.features import kernels, one_hot, scale
from thoughtlens.evals.probing.folds import Folds, permute_labels
from thoughtlens.evals.probing.matrices import Matrix, dense, rows, shape
from thoughtlens.numerics import SHARED_TRAINING, max_statistic, permutation_p

PENALTY = 1.0
"""Ridge penalty, times the number of features: the energy of one unit."""


@dataclass(frozen=True, eq=False)
class CellTest:
    """Cells under one cheap classifier, beside what permuted labels and exchanged cells give."""

    score: Float[np.ndarray, " cells"]
    """Out-of-fold accuracy, or R squared."""
    p_any: Float[np.ndarray, " cells"]
    """Chance that the best cell of permuted labels scores as high: does this cell know the label at all?"""
    p_best: Float[np.ndarray, " cells"]
    """Chance that the best cell scores as high when each unit's results are dealt to the cells at random:
    does this cell know it more than cells do on average?"""
    null_max: float
    """95th percentile of the best cell under permuted labels."""
    n_permutations: int


def ridge_outputs(
    X: Matrix, targets: Float[np.ndarray, "n m"], fold_of: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n m"]:
    """Out-of-fold predictions of many targets at once by ridge regression, penalty PENALTY * features."""
    out = np.zeros_like(targets, dtype=float)
    for fold in np.unique(fold_of):
        train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        mean = targets[train].mean(0)
        centred = targets[train] - mean
        Z, Z_test = scale(rows(X, train), rows(X, test))
        n, d = shape(Z)
        if not d:
            out[test] = mean
        elif d <= n:
            gram = dense(Z.T @ Z)
            gram[np.diag_indices(d)] += PENALTY * d
            W = scipy.linalg.solve(gram, np.asarray(Z.T @ centred), assume_a="pos", overwrite_a=True)
            out[test] = np.asarray(Z_test @ W) + mean
        else:
            gram, across = kernels(Z, Z_test)
            gram[np.diag_indices(n)] += PENALTY * d
            duals = scipy.linalg.solve(gram, centred, assume_a="pos", overwrite_a=True)
            out[test] = across @ duals + mean
    return out


def compare_cells(
    cells: Sequence[Matrix],
    y: Shaped[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    folds: Folds,
    *,
    n_classes: int | None,
    n_permutations: int,
    seed: int,
) -> CellTest:
    """Score every cell on true and permuted labels, all cells under the same permutations.

    Raises:
        ConfigError: fewer than one permutation.
    """
    labels = np.stack(
        [y, *(permute_labels(y, groups, folds, seed=seed + 1 + i) for i in range(n_permutations))]
    )
    targets = np.concatenate([one_hot(own, n_classes) for own in labels], axis=1)

    def one(X: Matrix) -> tuple[np.ndarray, np.ndarray]:
        outputs = ridge_outputs(X, targets, folds.outer).reshape(len(y), len(labels), -1)
        if n_classes is None:
            skill = 1 - (outputs[:, :, 0] - labels.T) ** 2 / y.var()
        else:
            skill = (outputs.argmax(2) == labels.T).astype(float)
        return skill.mean(0), skill[:, 0]

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(n_threads()) as pool:
        scores, results = zip(*pool.map(one, cells), strict=True)
    score = np.array(scores)
    return CellTest(
        score[:, 0],
        max_statistic(score[:, 0], score[:, 1:].T),
        _exchange(np.stack(results, axis=1), groups, n_permutations, seed, SHARED_TRAINING),
        float(np.quantile(score[:, 1:].max(0), 0.95)),
        n_permutations,
    )


def _exchange(
    results: Float[np.ndarray, "n cells"],
    groups: Int[np.ndarray, " n"],
    n_permutations: int,
    seed: int,
    inflation: float,
) -> Float[np.ndarray, " cells"]:
    """p of each cell's mean against the largest mean after dealing each group's results to the cells anew.

    Dealt out anew, results no longer share their training units as those of a cell do: what cells are above
    the mean of all is held against that of the dealt ones times the root of `inflation`.
    """
    index = np.unique(groups, return_inverse=True)[1]
    n_cells = results.shape[1]
    sums = np.zeros((index.max() + 1, n_cells))
    np.add.at(sums, index, results)
    rng, best = np.random.default_rng(seed), []
    for _ in range(n_permutations):
        best.append(rng.permuted(sums, axis=1).sum(0).max())
    total = sums.sum(0)
    null = total.mean() + np.sqrt(inflation) * (np.array(best) - total.mean())
    return np.array([permutation_p(own, null) for own in total - 1e-9])
