"""One set under this project's protocol: grouped outer folds, every choice inside, all rows tested once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.core import DataError
from thoughtlens.evals.probing import comparisons, probes, scores, topk
from thoughtlens.evals.probing.matrices import Matrix, rows
from thoughtlens.evals.probing.probes import Folds, Probe
from thoughtlens.evals.probing.text import bag_of_words
from thoughtlens.evals.suites.auc import auc_interval
from thoughtlens.evals.suites.config import SuiteConfig

LAST = "last"
ARMS = {
    "sae": "all SAE latents of the last token",
    "raw": "raw activations of the last token",
    "top_latents": "the k latents that say most, k chosen inside",
    "text": "TF-IDF of the words",
    "majority": "the most frequent class of the training fold",
}
DEFINITIONS = {
    **{key: scores.DEFINITIONS[key] for key in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")},
    **comparisons.DEFINITIONS,
    "auc": "area under the ROC curve of p(second class), out of fold, folds pooled",
}


def ours(
    x: Float[np.ndarray, "n d_in"],
    acts: Matrix,
    texts: Sequence[str],
    y: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    classes: Sequence[str],
    cfg: SuiteConfig,
) -> dict[str, Any]:
    """Scores of every arm, and each against raw activations; the primary comparison is that of all latents.

    Raises:
        DataError: a class in fewer texts than folds.
    """
    keep = _thinned(groups, cfg.own_rows, cfg.seed)
    x, acts, y = x[keep], rows(acts, keep), y[keep]
    kept_texts = [texts[i] for i in map(int, keep)]
    groups = np.unique(groups[keep], return_inverse=True)[1]
    folds = probes.make_folds(
        y, groups, n_splits=cfg.folds, n_inner=cfg.inner_folds, seed=cfg.seed, classes=classes
    )
    found = _probes(x, acts, kept_texts, y, folds, cfg)
    right = {(arm, LAST): p.pred == y for arm, p in found.items()}
    return {
        "table": [_row(arm, p, y, groups, cfg) for arm, p in found.items()],
        "comparisons": comparisons.comparisons(
            right, groups, against="raw", primary=("sae", LAST), delta=cfg.delta, seed=cfg.seed,
            outer=folds.outer,
        ),
        "folds_digest": folds.digest,
    }  # fmt: skip


def _thinned(groups: Int[np.ndarray, " n"], most: int, seed: int) -> Int[np.ndarray, " m"]:
    """All rows of randomly chosen groups, as many groups as fit."""
    if not 0 < most < len(groups):
        return np.arange(len(groups))
    rank = np.random.default_rng(seed).permutation(groups.max() + 1)[groups]
    return np.flatnonzero(rank < np.sort(rank)[most])


def _probes(
    x: np.ndarray, acts: Matrix, texts: Sequence[str], y: np.ndarray, folds: Folds, cfg: SuiteConfig
) -> dict[str, Probe]:
    options: dict[str, Any] = {"n_classes": 2, "grid": cfg.c_grid, "max_iter": cfg.max_iter}
    at_k = topk.at_k(acts, y, folds, ks=cfg.own_ks, **options)
    found = {
        "sae": probes.probe(acts, y, folds, **options),
        "raw": probes.probe(x, y, folds, **options),
        "top_latents": probes.select(list(at_k.probes.values()), folds)[0],
        "majority": probes.constant(y, folds, n_classes=2),
    }
    try:
        words = bag_of_words(texts)
    except DataError:  # no word is in two texts: nothing to learn from, so no arm
        return found
    return found | {"text": probes.probe(words, y, folds, **options)}


def _row(arm: str, p: Probe, y: np.ndarray, groups: np.ndarray, cfg: SuiteConfig) -> dict[str, Any]:
    auc = auc_interval(y, [p.proba[:, 1]], groups, n_resamples=cfg.n_resamples, seed=cfg.seed)
    return {
        "arm": arm,
        **scores.score(y, p.pred, p.proba, groups, seed=cfg.seed),
        "auc": auc.estimate,
        "auc_low": auc.low,
        "auc_high": auc.high,
        "n_features": p.n_features,
        "n_unconverged": p.n_unconverged,
    }
