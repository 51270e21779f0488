"""One set under this project's protocol: grouped outer folds, every choice inside, all rows tested once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.core import DataError
from thoughtlens.evals.probing import comparisons, probes, scores, topk
from thoughtlens.evals.probing.matrices import Matrix, rows
from thoughtlens.evals.probing.probes import Folds, Probe
from thoughtlens.evals.probing.text import bag_of_words
from thoughtlens.evals.suites.config import SuiteConfig
from thoughtlens.evals.suites.records import OurProbe, Ours
from thoughtlens.numerics import SHARED_TRAINING, auc_interval

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


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Texts of two classes, and what the model and the SAE have at each text's last token."""

    x: Float[np.ndarray, "n d_in"]
    acts: Matrix
    """Activations of all latents, `[n, d_sae]`."""
    texts: Sequence[str]
    y: Int[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"]
    """Rows with the same number are copies of one text."""
    classes: list[str]

    def only(self, keep: Int[np.ndarray, " m"]) -> LabelledSet:
        """Some rows."""
        groups = np.unique(self.groups[keep], return_inverse=True)[1]
        texts = [self.texts[i] for i in map(int, keep)]
        return LabelledSet(self.x[keep], rows(self.acts, keep), texts, self.y[keep], groups, self.classes)


def ours(data: LabelledSet, cfg: SuiteConfig) -> Ours:
    """Scores of every arm, and each against raw activations; the primary comparison is that of all latents.

    Raises:
        DataError: a class in fewer texts than folds.
    """
    data = data.only(_thinned(data.groups, cfg.own_rows, cfg.seed))
    folds = probes.make_folds(
        data.y, data.groups, n_splits=cfg.folds, n_inner=cfg.inner_folds, seed=cfg.seed, classes=data.classes
    )
    found = _probes(data, folds, cfg)
    right = {(arm, LAST): p.pred == data.y for arm, p in found.items()}
    return Ours(
        table=[_row(arm, p, data, folds, cfg) for arm, p in found.items()],
        comparisons=comparisons.comparisons(
            right, data.groups, against="raw", primary=("sae", LAST), delta=cfg.delta, outer=folds.outer,
            knows={(arm, LAST): _known(p, data, folds) for arm, p in found.items()},
        ),
        folds_digest=folds.digest,
    )  # fmt: skip


def _thinned(groups: Int[np.ndarray, " n"], most: int, seed: int) -> Int[np.ndarray, " m"]:
    """All rows of randomly chosen groups, as many groups as fit."""
    if not 0 < most < len(groups):
        return np.arange(len(groups))
    rank = np.random.default_rng(seed).permutation(groups.max() + 1)[groups]
    return np.flatnonzero(rank < np.sort(rank)[most])


def _probes(data: LabelledSet, folds: Folds, cfg: SuiteConfig) -> dict[str, Probe]:
    def fit(X: Matrix) -> Probe:
        return probes.probe(X, data.y, folds, n_classes=2, grid=cfg.c_grid, max_iter=cfg.max_iter)

    at_k = topk.at_k(
        data.acts, data.y, folds, n_classes=2, ks=cfg.own_ks, grid=cfg.c_grid, max_iter=cfg.max_iter
    )
    found = {
        "sae": fit(data.acts),
        "raw": fit(data.x),
        "top_latents": probes.select(list(at_k.probes.values()), folds)[0],
        "majority": probes.constant(data.y, folds, n_classes=2),
    }
    try:
        words = bag_of_words(data.texts)
    except DataError:  # no word is in two texts: nothing to learn from, so no arm
        return found
    return found | {"text": fit(words)}


def _known(p: Probe, data: LabelledSet, folds: Folds) -> float | None:
    return scores.above_guessing(data.y, p.pred, data.groups, classes=True, outer=folds.outer)


def _row(arm: str, p: Probe, data: LabelledSet, folds: Folds, cfg: SuiteConfig) -> OurProbe:
    auc = auc_interval(data.y, [p.proba[:, 1]], data.groups, n_resamples=cfg.n_resamples, seed=cfg.seed)
    return OurProbe(
        arm=arm,
        **vars(scores.score(data.y, p.pred, p.proba, data.groups, seed=cfg.seed, inflation=SHARED_TRAINING)),
        auc=auc.estimate,
        auc_low=auc.low,
        auc_high=auc.high,
        n_features=p.n_features,
        n_unconverged=p.n_unconverged,
    )
