"""Preferences with the problem as the unit: by hand, batch-free, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from thoughtlens.explain.association import LabelPreference, LevelPreference, TokenPreference, rank_within


def fires_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """unit, latent, level of a [units, levels, latents] mask."""
    unit, level, latent = np.nonzero(mask)
    return unit, latent, level


def level_preference(mask: np.ndarray, cuts: list[int], **options: int) -> LevelPreference:
    n, levels, d = mask.shape
    found = LevelPreference(d, levels, **options)
    for low, high in zip([0, *cuts], [*cuts, n], strict=True):
        unit, latent, level = fires_of(mask[low:high])
        found.update(unit, latent, level, np.ones((high - low, levels), np.int64))
    return found


def test_level_preference_by_hand():
    # latent 0 fires at level 1 in problems 0, 1, 2 of 4, and at level 0 in problem 0
    mask = np.zeros((4, 3, 1), bool)
    mask[[0, 1, 2], 1, 0] = True
    mask[0, 0, 0] = True
    found = level_preference(mask, []).compute(min_units=2)
    at = {int(level): i for i, level in enumerate(found.level)}
    # level 1: in 3/4; elsewhere (1/2 + 0 + 0 + 0) / 4 = 1/8
    assert found.rate_in[at[1]] == pytest.approx(0.75)
    assert found.rate_out[at[1]] == pytest.approx(0.125)
    assert found.estimate[at[1]] == pytest.approx(0.625)
    # per problem: 1/2, 1, 1, 0; variance 3/16 + ... = mean of squares 9/16 - (5/8)^2 = 11/64
    half = 1.959964 * np.sqrt(11 / 64 / 4)
    assert found.low[at[1]] == pytest.approx(0.625 - half, abs=1e-6)
    assert found.n_fires[at[1]] == 3 and found.n_units[at[1]] == 3


def test_level_preference_ignores_batching():
    mask = np.random.default_rng(0).random((60, 4, 9)) < 0.3
    whole, parts = level_preference(mask, []).compute(), level_preference(mask, [7, 8, 41]).compute()
    for name, value in vars(whole).items():
        np.testing.assert_allclose(getattr(parts, name), value, rtol=1e-5, err_msg=name)


def test_random_masks_have_no_preferences_and_a_planted_one_is_found():
    rng = np.random.default_rng(1)
    mask = rng.random((300, 6, 60)) < np.linspace(0.03, 0.5, 60)
    assert level_preference(mask, [], seed=1).compute().p_max.min() > 0.05
    mask[:, 3, 7] |= rng.random(300) < 0.4
    found = level_preference(mask, [], seed=1).compute()
    held = found.p_max < 0.05
    assert set(found.latent[held]) == {7}
    planted = (found.latent == 7) & (found.level == 3)
    assert found.low[planted] > 0.2 and found.q_value[planted] < 1e-6


def test_rows_of_a_problem_are_not_independent_evidence():
    # a latent that fires on all 40 vectors of a problem or on none, at random: counting rows would make
    # any label "significant", counting problems must not
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 40)
    mask = np.repeat(rng.random((40, 1, 30)) < 0.5, 40, axis=1)
    found = LabelPreference(30, labels, 2, seed=0)
    unit, latent, _ = fires_of(mask)
    found.update(unit, latent, np.full(40, 40))
    assert found.compute(min_units=3).p_max.min() > 0.05


def test_label_preference_by_hand():
    # problems of 2 vectors; labels 0, 0, 1, 1 and one without a label; latent 0 fires on 2, 1, 0, 0, 2
    found = LabelPreference(1, np.array([0, 0, 1, 1, -1]), 2, n_permutations=50, seed=0)
    unit = np.array([0, 0, 1, 4, 4])
    found.update(unit, np.zeros(5, np.int64), np.full(5, 2))
    result = found.compute(min_units=1)
    at = {int(level): i for i, level in enumerate(result.level)}
    # class 0: (1 + 1/2) / 2 = 3/4; class 1: 0
    assert result.rate_in[at[0]] == pytest.approx(0.75)
    assert result.rate_out[at[0]] == 0
    assert result.estimate[at[1]] == pytest.approx(-0.75)
    # sample variance of (1, 1/2) is 1/8, so the standard error is sqrt(1/8 / 2) = 1/4
    assert result.low[at[0]] == pytest.approx(0.75 - 1.959964 / 4, abs=1e-6)
    assert result.n_fires[at[0]] == 3


def test_labels_are_followed_over_batches():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 90)
    mask = rng.random((90, 4, 12)) < 0.2
    mask[labels == 2, :, 5] |= rng.random((int((labels == 2).sum()), 4)) < 0.4
    results = []
    for cuts in ([], [10, 55]):
        found = LabelPreference(12, labels, 3, seed=4)
        for low, high in zip([0, *cuts], [*cuts, 90], strict=True):
            unit, latent, _ = fires_of(mask[low:high])
            found.update(unit, latent, np.full(high - low, 4))
        results.append(found.compute())
    for name, value in vars(results[0]).items():
        np.testing.assert_allclose(getattr(results[1], name), value, rtol=1e-5, atol=1e-7, err_msg=name)
    best = results[0].z.argmax()
    assert (results[0].latent[best], results[0].level[best]) == (5, 2)
    assert results[0].p_max[best] < 0.01


def test_token_lift_by_hand():
    # 2 documents of 4 tokens; token 1 is at 2 of 8 places, once in each; latent 0 fires there and once more
    preference = TokenPreference(1, 3)
    tokens = np.array([1, 0, 0, 2, 1, 0, 0, 0])
    preference.update(np.array([0, 1, 1]), np.zeros(3, np.int64), np.array([1, 1, 0]), tokens, n_units=2)
    found = preference.compute(min_fires=1, min_units=1)
    first = found.take(found.level == 1)
    # P(token 1 | fires) = 2/3, P(token 1) = 2/8: lift 8/3
    assert first.estimate[0] == pytest.approx(8 / 3)
    assert first.rate_in[0] == 1.0
    assert first.n_units[0] == 2
    # documents: a = 1, 1 and b = 1, 2; residuals a - 2/3 b = 1/3, -1/3; spread sqrt(2/9) / 3
    assert first.low[0] == pytest.approx((2 / 3 - 1.959964 * np.sqrt(2 / 9) / 3) * 4, abs=1e-5)


def test_token_support_floor_and_top():
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, 50, 4000)
    unit = np.repeat(np.arange(40), 100)
    on = (tokens == 7) | (rng.random(4000) < 0.02)
    preference = TokenPreference(2, 50)
    preference.update(unit[on], np.zeros(on.sum(), np.int64), tokens[on], tokens, 40)
    found = preference.compute(min_fires=3, min_units=3, top=4)
    assert found.level[0] == 7 and len(found) <= 4
    assert found.low[0] > 10
    assert len(preference.compute(min_fires=10_000)) == 0
    assert len(TokenPreference(2, 50).compute()) == 0


def test_rank_within():
    assert rank_within(np.array([3, 3, 5, 5, 5, 9])).tolist() == [0, 1, 0, 1, 2, 0]
    assert rank_within(np.zeros(0, np.int64)).tolist() == []
