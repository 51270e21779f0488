"""Scores worked by hand, and intervals against resampling the plain definition."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from thoughtlens.latents.explain.scores import auprc, best_threshold, interval, score, twin


def test_score_by_hand():
    """Sorted by prediction: fires, silent, fires, silent; precisions at the fires 1/1 and 2/3."""
    acts, prediction = np.array([2.0, 0, 1, 0], np.float32), np.array([0.9, 0.8, 0.7, 0.1])
    found = score(acts, prediction, np.array([0, 0, 1, 1]), threshold=0.8)
    assert found.auprc == pytest.approx((1 + 2 / 3) / 2)
    assert found.precision_at_half_recall == 1.0
    assert (found.precision, found.recall, found.base_rate) == (0.5, 0.5, 0.5)
    assert (found.n, found.n_units, found.n_fires) == (4, 2, 2)
    assert found.pearson == pytest.approx(np.corrcoef(acts, prediction)[0, 1])


def test_weights_are_repeats():
    rng = np.random.default_rng(0)
    acts, prediction, times = rng.random(50) < 0.3, rng.random(50), rng.integers(1, 4, 50)
    rows = np.repeat(np.arange(50), times)
    unit = np.arange(50)
    weighted = score(acts.astype(float), prediction, unit, 0.5, times.astype(float))
    repeated = score(acts[rows].astype(float), prediction[rows], unit[rows], 0.5)
    for name in ("auprc", "precision_at_half_recall", "pearson", "precision", "recall", "base_rate"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name)), name


def test_constant_predictions_and_silent_latents():
    acts = np.array([1.0, 0, 0, 0])
    found = score(acts, np.zeros(4), np.arange(4), threshold=0.0)
    assert found.pearson is None and found.auprc == found.base_rate == 0.25
    assert auprc(np.zeros(4, bool), np.arange(4.0)) == 0.0
    assert best_threshold(np.zeros(4, bool), np.arange(4.0)) == float("inf")


def test_best_threshold_by_hand():
    """At 0.7: precision 2/3, recall 1, F1 0.8; at 0.9: 1, 1/2, 0.67."""
    fires = np.array([True, False, True, False])
    assert best_threshold(fires, np.array([0.9, 0.8, 0.7, 0.1])) == 0.7


@pytest.mark.parametrize("ties", [False, True])
def test_interval_resamples_the_plain_definition(ties):
    rng = np.random.default_rng(1)
    cluster = rng.integers(0, 12, 200)
    fires = rng.random(200) < 0.25
    prediction = rng.random(200) + 0.4 * fires
    prediction = np.round(prediction, 1) if ties else prediction
    found = interval(fires, prediction, cluster, n_resamples=60, seed=3)
    assert found.estimate == pytest.approx(average_precision_score(fires, prediction))
    draws, generator = [], np.random.default_rng(3)
    for _ in range(60):
        times = generator.multinomial(12, np.full(12, 1 / 12), size=1)[0][cluster]
        draws.append(average_precision_score(fires, prediction, sample_weight=times))
    assert min(draws) - 1e-9 <= found.low <= found.high <= max(draws) + 1e-9
    assert found.low == pytest.approx(np.quantile(draws, 0.0), abs=0.08)
    assert found.n == 12


def test_twin_keeps_the_density_of_every_problem():
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(20), 30)
    acts = np.where(rng.random(600) < unit / 40, rng.random(600), 0)
    other = twin(acts, unit, rng)
    assert not np.array_equal(acts, other)
    for u in range(20):
        np.testing.assert_array_equal(np.sort(acts[unit == u]), np.sort(other[unit == u]))
