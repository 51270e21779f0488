"""Scores by hand, and comparisons that say no more than their interval."""

from __future__ import annotations

import numpy as np
import pytest

from thoughtlens.evals.probing import comparisons, scores

Y = np.array([0, 0, 0, 1, 1, 2])
PRED = np.array([0, 0, 1, 1, 0, 2])


def test_confusion_and_per_class_by_hand():
    matrix = scores.confusion(Y, PRED, 3)
    assert matrix.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    rows = scores.per_class(matrix, ["a", "b", "c"])
    assert rows[0].precision == rows[0].recall == rows[0].f1 == pytest.approx(2 / 3)
    assert (rows[1].precision, rows[1].recall, rows[1].f1) == (0.5, 0.5, 0.5)
    assert rows[2].f1 == 1 and rows[2].recall_low < 1
    assert [r.n for r in rows] == [3, 2, 1]


def test_a_class_that_is_never_predicted_has_no_precision():
    rows = scores.per_class(scores.confusion(np.array([0, 1]), np.array([0, 0]), 2), ["a", "b"])
    assert rows[1].precision is None and rows[1].recall == 0 and rows[1].f1 == 0


def test_score_by_hand():
    proba = np.eye(3)[PRED] * 0.7 + 0.1
    found = scores.score(Y, PRED, proba, np.arange(6), seed=0)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    # four right at 0.8, two wrong at 0.1
    assert found.log_loss == pytest.approx(-(4 * np.log(0.8) + 2 * np.log(0.1)) / 6)
    assert found.interval == "Wilson"
    assert found.macro_f1_low <= found.macro_f1 <= found.macro_f1_high


def test_groups_widen_the_interval():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 15)
    y = rng.integers(0, 2, 300)
    wrong = np.repeat(rng.random(20) < 0.3, 15)
    pred, proba = np.where(wrong, 1 - y, y), np.full((300, 2), 0.5)
    alone = scores.score(y, pred, proba, np.arange(300), seed=0)
    clustered = scores.score(y, pred, proba, groups, seed=0)
    assert clustered.n_groups == 20
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


def test_comparisons_on_the_same_units():
    rng = np.random.default_rng(1)
    base = rng.random(400) < 0.6
    right = {
        ("raw", "mean"): base,
        ("sae", "mean"): base,
        ("pca", "mean"): base & (rng.random(400) < 0.6),
        ("text", "none"): np.roll(base, 1),
    }
    rows = comparisons.comparisons(
        right, np.arange(400), against="raw", primary=("sae", "mean"), delta=0.03, seed=0
    )
    at = {row.arm: row for row in rows}
    assert set(at) == {"sae", "pca", "text"}
    assert at["sae"].primary and at["sae"].difference == 0 and at["sae"].p == 1
    assert at["sae"].verdict == "equivalent" and at["sae"].p_holm is None
    assert at["pca"].verdict == "worse" and at["pca"].high < 0
    assert at["text"].low < 0 < at["text"].high and at["text"].verdict == "inconclusive"
    assert at["pca"].p_holm >= at["pca"].p
