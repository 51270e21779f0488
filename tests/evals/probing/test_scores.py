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
    rows = scores.per_class(Y, PRED, ["a", "b", "c"], np.arange(6))
    assert rows[0].precision == rows[0].recall == rows[0].f1 == pytest.approx(2 / 3)
    assert (rows[1].precision, rows[1].recall, rows[1].f1) == (0.5, 0.5, 0.5)
    assert rows[2].f1 == 1 and rows[2].recall_low < 1
    assert [r.n for r in rows] == [3, 2, 1]


def test_a_class_that_is_never_predicted_has_no_precision():
    rows = scores.per_class(np.array([0, 1]), np.array([0, 0]), ["a", "b"], np.arange(2))
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
    rows = comparisons.comparisons(right, np.arange(400), against="raw", primary=("sae", "mean"), delta=0.03)
    at = {row.arm: row for row in rows}
    assert set(at) == {"sae", "pca", "text"}
    assert at["sae"].primary and at["sae"].difference == 0 and at["sae"].p == 1
    assert at["sae"].verdict == "equivalent" and at["sae"].p_holm is None
    assert at["pca"].verdict == "worse" and at["pca"].high < 0
    assert at["text"].low < 0 < at["text"].high and at["text"].verdict == "inconclusive"
    assert at["pca"].p_holm >= at["pca"].p


def guesses(rng, y, right):
    """Predictions of two classes that are right in a share of the units."""
    return np.where(rng.random(len(y)) < right, y, 1 - y)


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ("nine in ten", "nine in ten", "no information"),  # both give the larger class only
        ("nearly", "nine in ten", "no information"),  # one gives the smaller class twice, and is wrong
        ("nine in ten", "half", "better"),  # one class only, and yet the better guess
        ("knows", "knows", "equivalent"),
        ("knows", "nine in ten", "better"),
    ],
)
def test_equal_scores_of_predictors_that_know_nothing_say_nothing(first, second, word):
    rng = np.random.default_rng(0)
    y = (np.arange(2000) % 10 == 0).astype(int)
    nearly = np.zeros(2000, int)
    nearly[[5, 1007]] = 1
    pred = {
        "nine in ten": np.zeros(2000, int),
        "nearly": nearly,
        "half": rng.integers(0, 2, 2000),
        "knows": guesses(rng, y, 0.97),
    }
    groups, outer = np.arange(2000), np.arange(2000) % 5
    both = {("sae", "m"): pred[first], ("raw", "m"): pred[second]}
    rows = comparisons.comparisons(
        {key: own == y for key, own in both.items()}, groups, against="raw", primary=("sae", "m"), delta=0.03,
        outer=outer,
        knows={k: scores.above_guessing(y, p, groups, classes=True, outer=outer) for k, p in both.items()},
    )  # fmt: skip
    assert [row.verdict for row in rows] == [word]


def test_constant_numbers_know_nothing_and_fold_means_neither():
    rng = np.random.default_rng(1)
    y, outer, groups = rng.normal(size=100), np.arange(100) % 5, np.arange(100)
    means = np.array([y[outer != fold].mean() for fold in range(5)])[outer]
    assert scores.above_guessing(y, means, groups, classes=False, outer=outer) is None
    assert scores.above_guessing(y, y + 0.1 * rng.normal(size=100), groups, classes=False, outer=outer) > 0.9
    assert scores.above_guessing(y, rng.normal(size=100), groups, classes=False, outer=outer) < 0


def test_words_of_many_comparisons_follow_the_corrected_p():
    rng = np.random.default_rng(2)
    base = rng.random(500) < 0.6
    better = base | (rng.random(500) < 0.09)
    right = {("raw", "m"): base, ("sae", "m"): base, ("one", "m"): better}
    alone = {key: own for key, own in right.items()}
    many = alone | {(f"other {i}", "m"): rng.permutation(base) for i in range(40)}
    words = []
    for table in (alone, many):
        rows = comparisons.comparisons(
            table, np.arange(500), against="raw", primary=("sae", "m"), delta=0.01, outer=np.arange(500) % 5
        )
        (row,) = (row for row in rows if row.arm == "one")
        words.append(row.verdict)
        for row in rows:
            assert row.primary or row.verdict not in ("better", "worse") or row.p_holm <= 0.05
    assert words[0] == "better"


def test_shared_training_units_widen_what_is_said_of_accuracy():
    y, pred = np.arange(100) % 2, np.where(np.arange(100) < 80, np.arange(100) % 2, 1 - np.arange(100) % 2)
    proba = np.full((100, 2), 0.5)
    alone = scores.score(y, pred, proba, np.arange(100), seed=0)
    shared = scores.score(y, pred, proba, np.arange(100), seed=0, inflation=2.0)
    assert shared.accuracy == alone.accuracy
    assert (shared.high - shared.low) / (alone.high - alone.low) == pytest.approx(2**0.5, abs=0.03)
    whole = scores.score(y, y, proba, np.arange(100), seed=0)
    assert whole.macro_f1 == 1 and whole.macro_f1_low < 1 and whole.low < 1
