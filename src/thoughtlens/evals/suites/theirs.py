"""One set under sae-probes' protocol, with intervals and tests on its test rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int

from thoughtlens.evals.probing import comparisons, scores
from thoughtlens.evals.probing.matrices import Matrix, columns, dense, rows, shape
from thoughtlens.evals.suites import protocol
from thoughtlens.evals.suites.config import SuiteConfig
from thoughtlens.evals.suites.protocol import Fitted, Split
from thoughtlens.evals.suites.records import AUCDifference, TheirComparison, TheirProbe, Theirs
from thoughtlens.numerics import Tested, auc_interval, family

DEFINITIONS = {
    **protocol.DEFINITIONS,
    "low, high": "95% interval of the AUC, test rows resampled, copies of a text together",
    "n_leaked": "test rows whose text is also a training row; the protocol does not look for them",
    "sae_minus_raw": "the probe on the k latents whose val_auc is best, minus that on raw activations",
}


def theirs(
    x: Float[np.ndarray, "n d_in"],
    acts: Matrix,
    y: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    cfg: SuiteConfig,
) -> Theirs:
    """Scores of probes on raw activations, and on latents for each k, and their paired comparison.

    Args:
        x: Raw activations.
        acts: Activations of all latents, `[n, d_sae]`.
        y: Classes 0 and 1.
        groups: Rows with the same number are copies of one text.
        cfg: The suite.

    Raises:
        DataError: too few rows of a class for the protocol's split.
    """
    taken = protocol.split(y, cfg.probe_seed)
    train, test, order = _chosen(acts, y, taken, max(cfg.ks), cfg.binarize)
    y_train, y_test, own = y[taken.train], y[taken.test], groups[taken.test]
    seed = cfg.probe_seed
    raw = protocol.fit(x[taken.train], y_train, x[taken.test], y_test, penalty="l2", seed=seed)
    fits = {
        k: protocol.fit(train[:, :k], y_train, test[:, :k], y_test, penalty=cfg.penalty, seed=seed)
        for k in sorted({min(k, train.shape[1]) for k in cfg.ks})
    }
    best = max(fits, key=lambda k: (fits[k].val_auc, -k))
    n_leaked = int(np.isin(own, groups[taken.train]).sum())

    def row(arm: str, k: int | None, found: Fitted) -> TheirProbe:
        interval = auc_interval(y_test, [found.p], own, n_resamples=cfg.n_resamples, seed=cfg.seed)
        return TheirProbe(
            arm=arm,
            k=k,
            auc=found.auc,
            accuracy=found.accuracy,
            f1=found.f1,
            val_auc=found.val_auc,
            c=found.c,
            converged=found.converged,
            low=interval.low,
            high=interval.high,
            n_train=len(taken.train),
            n_test=len(taken.test),
            n_leaked=n_leaked,
        )

    return Theirs(
        table=[row("raw", None, raw), *(row("sae", k, found) for k, found in fits.items())],
        best_k=best,
        sae_minus_raw=_compared(fits[best], raw, y_test, own, cfg),
        latents=order,
    )


def _chosen(
    acts: Matrix, y: np.ndarray, taken: Split, k: int, binarize: bool
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Training and test rows of the k latents that the protocol ranks first, and which they are."""
    train = dense(rows(acts, taken.train))
    order = protocol.ranking(torch.from_numpy(train), y[taken.train])[: min(k, shape(acts)[1])].numpy()
    test = dense(columns(rows(acts, taken.test), order))
    train = train[:, order]
    if binarize:
        train, test = train != 0, test != 0
    return train.astype(np.float32), test.astype(np.float32), order.tolist()


def _compared(a: Fitted, b: Fitted, y: np.ndarray, groups: np.ndarray, cfg: SuiteConfig) -> TheirComparison:
    """Difference of AUC with its interval and verdict, and of accuracy with exact McNemar."""
    auc, *alone = (
        auc_interval(y, p, groups, n_resamples=cfg.n_resamples, seed=cfg.seed)
        for p in ([a.p, b.p], [a.p], [b.p])
    )
    (said,) = family([Tested(auc.low, auc.high, auc.n)], delta=cfg.delta)
    pred = [(f.p > 0.5).astype(int) for f in (a, b)]
    accuracy = comparisons.paired(pred[0] == y, pred[1] == y, groups, delta=cfg.delta)
    knows = [scores.above_guessing(y, own, groups, classes=True) for own in pred]
    return TheirComparison(
        auc=AUCDifference(
            difference=auc.estimate,
            low=auc.low,
            high=auc.high,
            n=len(y),
            verdict=comparisons.informed(said.verdict, [own.low - 0.5 for own in alone]),
            p=said.p_holm,
            n_groups=auc.n,
        ),
        accuracy=replace(accuracy, verdict=comparisons.informed(accuracy.verdict, knows)),
    )
