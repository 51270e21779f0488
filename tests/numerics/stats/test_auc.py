"""Areas under the ROC curve on shared resamples, beside the same by hand and one at a time."""

from __future__ import annotations

import numpy as np
import pytest

from thoughtlens.numerics.stats.auc import Aucs, auc_interval

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3 == 0
GOOD = Y + RNG.normal(size=60)
OTHER = Y + 2 * RNG.normal(size=60)


def areas(scores, y=Y, clusters=None):
    return Aucs(y, scores, np.arange(len(y)) if clusters is None else clusters, n_resamples=500)


def test_the_area_is_the_share_of_pairs_in_order():
    found = areas({"a": GOOD}).of("a")
    pairs = [(p > q) + (p == q) / 2 for p in GOOD[Y] for q in GOOD[~Y]]
    assert found.estimate == pytest.approx(np.mean(pairs)) and found.low < found.estimate < found.high


def test_a_difference_is_on_the_same_resamples_as_its_parts():
    found = areas({"a": GOOD, "b": OTHER}).difference("a", "b")
    alone = auc_interval(Y.astype(int), [GOOD, OTHER], np.arange(60), n_resamples=500, seed=0)
    assert found.estimate == pytest.approx(alone.estimate)
    assert found.low <= alone.low and found.high >= alone.high  # 20 of the rarer class, not 60 clusters


def test_the_width_rests_on_the_groups_of_the_rarer_class():
    assert areas({"a": GOOD}).n == 20
    assert areas({"a": GOOD}, clusters=np.arange(60) // 6).n == 10


def test_a_perfect_score_still_has_a_width():
    found = areas({"a": Y.astype(float), "b": 2.0 * Y})
    assert found.of("a").estimate == 1 and found.of("a").low < 0.9
    gap = found.difference("a", "b")
    assert gap.low < 0 == gap.estimate < gap.high


def test_a_score_that_never_varies_is_a_coin():
    assert areas({"a": np.zeros(60)}).of("a").estimate == 0.5
