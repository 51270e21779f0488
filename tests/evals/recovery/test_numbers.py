"""Numbers that have too many values to be listed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.planted import D, planted_sae, thought_store
from thoughtlens.acts import ActivationStore
from thoughtlens.evals.recovery.numbers import acts_of, follow, neurons, rank_correlation
from thoughtlens.evals.recovery.places import Held
from thoughtlens.models import Place
from thoughtlens.sae import load_members

N = 480
PLACES = [Place(f"layers.{layer}:out", thought) for layer in (0, 1) for thought in (0, 1, 2)]


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """Latent 3 of hook 1 falls with `number` at thought 2, on half of the problems."""
    root, rng = tmp_path_factory.mktemp("numbers"), np.random.default_rng(0)
    number = rng.permutation(N) * 1.5
    strengths = rng.exponential(size=(N, 3, 2, D)) * (rng.random((N, 3, 2, D)) < 0.3)
    strengths[:, 2, 1, 3] = np.where(rng.random(N) < 0.7, 2 - number / number.max(), 0)
    splits = np.resize(["train", "validation", "test"], N).tolist()
    thought_store(root / "acts", strengths, {"number": number.tolist()}, splits)
    planted_sae(root / "sae")
    return Held(ActivationStore.open(root / "acts")), number


def planted(held, number, **settings):
    (sae,) = load_members(held.store.root.parent / "sae").values()
    return follow(held, number, PLACES, acts_of(sae), n_permutations=99, n_resamples=200, **settings)


def test_the_latent_and_its_place_are_found_and_scored_on_other_problems(held):
    found = planted(*held)
    assert (found.place, found.latent) == (Place("layers.1:out", 2), 3)
    assert found.p == 0.01 and found.correlation.n == 160
    assert found.correlation.high < -0.2 and found.correlation.estimate < found.correlation.high


def test_a_number_that_nothing_follows_is_not_found(held):
    found = planted(held[0], np.random.default_rng(3).normal(size=N))
    assert found.p > 0.05 and found.correlation.low < 0 < found.correlation.high


def test_problems_without_the_number_are_left_out(held):
    store, number = held
    few = np.where(np.arange(N) % 2, number, np.nan)
    assert planted(store, few).correlation.n == 80
    assert planted(store, np.full(N, np.nan)) is None


def test_coordinates_are_searched_likewise(held):
    found = follow(*held, PLACES, neurons, n_permutations=20, n_resamples=100)
    assert (found.place, found.latent) == (Place("layers.1:out", 2), 3)  # its directions are the axes


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50).round(1), rng.normal(size=50).round(1)
    found = rank_correlation(a, b, np.arange(50), n_resamples=100, seed=0)
    assert found.estimate == pytest.approx(spearmanr(a, b).statistic)
