"""Preferences with the problem as the unit: by hand, and nothing where there is nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from tests.latents.codes.fired import fires_of
from thoughtlens.latents.codes import association
from thoughtlens.latents.codes.association import (
    Associations,
    correlation,
    groups_of,
    label_preference,
    level_preference,
    rank_within,
    token_preference,
    word_preference,
)
from thoughtlens.latents.codes.chance import Chance, Null
from thoughtlens.latents.codes.fires import Fires


def of_mask(mask: np.ndarray) -> Fires:
    """Fires of a [problems, places, latents] mask."""
    n, places, d = mask.shape
    return fires_of(mask.reshape(n * places, 1, d), [places] * n)


def levels(mask: np.ndarray) -> np.ndarray:
    """The place within its problem of every vector."""
    return np.tile(np.arange(mask.shape[1]), mask.shape[0])


def few(n_permutations: int = 50, seed: int = 0, min_units: int = 1) -> Chance:
    return Chance(n_permutations=n_permutations, seed=seed, min_units=min_units)


def test_level_preference_by_hand():
    # latent 0 fires at level 1 in problems 0, 1, 2 of 4, and at level 0 in problem 0
    mask = np.zeros((4, 3, 1), bool)
    mask[[0, 1, 2], 1, 0] = True
    mask[0, 0, 0] = True
    found = level_preference(of_mask(mask), levels(mask), 3, few())
    at = {int(level): i for i, level in enumerate(found.level)}
    # level 1: in 3/4; elsewhere (1/2 + 0 + 0 + 0) / 4 = 1/8
    assert found.rate_in[at[1]] == pytest.approx(0.75)
    assert found.rate_out[at[1]] == pytest.approx(0.125)
    assert found.estimate[at[1]] == pytest.approx(0.625)
    # per problem: 1/2, 1, 1, 0; mean of squares 9/16 - (5/8)^2 = 11/64
    half = 1.959964 * np.sqrt(11 / 64 / 4)
    assert found.low[at[1]] == pytest.approx(0.625 - half, abs=1e-6)
    assert found.n_fires[at[1]] == 3 and found.n_units[at[1]] == 3
    # expected 2/3 + 1/3 + 1/3 of 3; variance t 2/9 (3 - t) / 2 for t = 2, 1, 1: three times 2/9
    assert found.z[at[1]] == pytest.approx((3 - 4 / 3) / np.sqrt(2 / 3))


def test_hooks_are_levels_too():
    # two hooks; latent 0 fires at hook 1 of every place, latent 1 at either at random
    rng = np.random.default_rng(0)
    acts = np.zeros((90, 2, 2))
    acts[:, 1, 0] = 1
    acts[np.arange(90), rng.integers(0, 2, 90), 1] = 1
    hook = np.tile([0, 1], 90)
    found = level_preference(fires_of(acts, [3] * 30), hook, 2, few(100), of_hooks=True)
    held = {
        (int(j), int(v)) for j, v, q in zip(found.latent, found.level, found.q_value, strict=True) if q < 0.05
    }
    assert held == {(0, 0), (0, 1)}


@pytest.mark.parametrize("factor", ["level", "label", "word", "token", "number"])
def test_threads_do_not_matter(factor):
    mask = np.random.default_rng(0).random((60, 4, 40)) < 0.3
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(FACTORS[factor](mask, np.arange(60), few(60, 3, min_units=5)))
    torch.set_num_threads(before)
    for name, value in vars(found[0]).items():
        np.testing.assert_array_equal(getattr(found[1], name), value, err_msg=name)


def test_random_masks_have_no_preferences_and_a_planted_one_is_found():
    rng = np.random.default_rng(1)
    mask = rng.random((300, 6, 60)) < np.linspace(0.03, 0.5, 60)
    chance = Chance(seed=1)
    assert level_preference(of_mask(mask), levels(mask), 6, chance).p_max.min() > 0.05
    mask[:, 3, 7] |= rng.random(300) < 0.4
    found = level_preference(of_mask(mask), levels(mask), 6, chance)
    held = found.p_max < 0.05
    assert set(found.latent[held]) == {7}
    planted = (found.latent == 7) & (found.level == 3)
    assert found.low[planted] > 0.2 and found.q_value[planted] < 0.01


def test_rows_of_a_problem_are_not_independent_evidence():
    # a latent that fires on all 40 vectors of a problem or on none, at random: counting rows would make
    # any label "significant", counting problems must not
    rng = np.random.default_rng(2)
    label = rng.integers(0, 2, 40)
    mask = np.repeat(rng.random((40, 1, 30)) < 0.5, 40, axis=1)
    found = label_preference(of_mask(mask), label, 2, Chance(min_units=3))
    assert len(found) and found.p_max.min() > 0.05 and found.q_value.min() > 0.05


def test_label_preference_by_hand():
    # problems of 2 vectors; labels 0, 0, 1, 1 and one without a label; latent 0 fires on 2, 1, 0, 0, 2
    mask = np.array([[1, 1], [1, 0], [0, 0], [0, 0], [1, 1]], bool)[:, :, None]
    result = label_preference(of_mask(mask), np.array([0, 0, 1, 1, -1]), 2, few())
    at = {int(level): i for i, level in enumerate(result.level)}
    # class 0: (1 + 1/2) / 2 = 3/4; class 1: 0
    assert result.rate_in[at[0]] == pytest.approx(0.75)
    assert result.rate_out[at[0]] == 0
    assert result.estimate[at[1]] == pytest.approx(-0.75)
    # sample variance of (1, 1/2) is 1/8, so the standard error is sqrt(1/8 / 2) = 1/4
    assert result.low[at[0]] == pytest.approx(0.75 - 1.959964 / 4, abs=1e-6)
    assert result.n_fires[at[0]] == 3
    # variance over the four (1 + 1/4)/4 - (3/8)^2 = 11/64; z = 3/4 / sqrt(11/64 (1/2 + 1/2))
    assert result.z[at[0]] == pytest.approx(0.75 / np.sqrt(11 / 64), rel=1e-6)


def test_a_word_is_tested_as_a_label_of_two_classes(monkeypatch):
    rng = np.random.default_rng(3)
    mask = rng.random((90, 4, 12)) < 0.2
    has = rng.random((90, 3)) < [0.3, 0.5, 0.8]
    mask[has[:, 1], :, 5] |= rng.random((has[:, 1].sum(), 4)) < 0.4
    fires = of_mask(mask)
    problem, word = np.nonzero(has)
    indptr = np.r_[0, np.cumsum(np.bincount(problem, minlength=90))]
    found = word_preference(fires, indptr, word.astype(np.int32), 3, few(), top=3)
    assert found.n_tested == len(found) == 36
    for w in range(3):
        label = label_preference(fires, has[:, w].astype(int), 2, few())
        own, theirs = found.level == w, label.level == 1
        for name in ("latent", "n_fires", "n_units", "rate_in", "rate_out", "low", "high", "z"):
            np.testing.assert_allclose(getattr(found, name)[own], getattr(label, name)[theirs], rtol=1e-6)
    best = np.abs(found.z).argmax()
    assert (found.latent[best], found.level[best]) == (5, 1)
    assert found.p_max[best] == pytest.approx(1 / 51) and found.q_value[best] < 0.05
    one = word_preference(fires, indptr, word.astype(np.int32), 3, few(), top=1)
    assert len(one) == 12 and one.n_tested == 36
    monkeypatch.setattr(association, "WORD_PAIRS", 15)  # a buffer size: five latents at a time
    blocks = word_preference(fires, indptr, word.astype(np.int32), 3, few(), top=1)
    for name, value in vars(one).items():
        np.testing.assert_array_equal(getattr(blocks, name), value, err_msg=name)


def test_numbers_are_tested_by_their_rank():
    rng = np.random.default_rng(4)
    number = np.exp(rng.normal(size=80))
    mask = rng.random((80, 5, 6)) < 0.3
    mask[:, :, 2] = rng.random((80, 5)) < stats.rankdata(number)[:, None] / 100
    number[7] = np.nan
    found = correlation(of_mask(mask), number, few(200))
    known = ~np.isnan(number)
    by = stats.rankdata(number[known]), number[known]
    for i, (j, way) in enumerate(zip(found.latent, found.level, strict=True)):
        r = stats.pearsonr(mask[known, :, j].mean(1), by[way])
        assert found.estimate[i] == pytest.approx(r.statistic)
        interval = r.confidence_interval(0.95)
        assert (found.low[i], found.high[i]) == pytest.approx((interval.low, interval.high))
    assert found.latent[found.p_max < 0.01].tolist() == [2, 2]


def test_token_lift_by_hand():
    # 2 documents of 4 tokens; token 1 is at 2 of 8 places, once in each; latent 0 fires there and once more
    token = np.array([1, 0, 0, 2, 1, 0, 0, 0])
    acts = np.zeros((8, 1, 1))
    acts[[0, 4, 5]] = 1
    found = token_preference(fires_of(acts, [4, 4]), token, 3, few(), min_fires=1)
    first = found.take(found.level == 1)
    # P(token 1 | fires) = 2/3, P(token 1) = 2/8: lift 8/3
    assert first.estimate[0] == pytest.approx(8 / 3)
    assert first.rate_in[0] == 1.0 and first.rate_out[0] == pytest.approx(1 / 6)
    assert first.n_units[0] == 2
    # documents: a = 1, 1 and b = 1, 2; residuals a - 2/3 b = 1/3, -1/3; spread sqrt(2/9) / 3
    assert first.low[0] == pytest.approx(max(0, (2 / 3 - 1.959964 * np.sqrt(2 / 9) / 3) * 4), abs=1e-5)


def test_token_support_floor_and_top():
    rng = np.random.default_rng(5)
    token = rng.integers(0, 50, 4000)
    acts = np.zeros((4000, 1, 2))
    acts[(token == 7) | (rng.random(4000) < 0.02), 0, 0] = 1
    fires, chance = fires_of(acts, [100] * 40), few(40, min_units=3)
    found = token_preference(fires, token, 50, chance, min_fires=3, top=4)
    assert found.level[0] == 7 and len(found) <= 4 < found.n_tested
    assert found.low[0] > 10 and found.q_value[0] < 0.05
    assert len(token_preference(fires, token, 50, chance, min_fires=10_000)) == 0


def test_q_values_by_hand():
    # 2 permutations; in each one |z| of 1.0 and one of 2.0; in the data 3.0, 2.0, 0.5 and 0.4
    counts = np.zeros(10_000, np.int64)
    counts[[100, 200]] = 2
    null = Null(np.array([2.0, 2.0]), counts)
    # (1 + null at least as large) / 2 permutations / data at least as large: 0.5/1, 1.5/2, 2.5/3, 2.5/4
    q = null.q_values(np.array([3.0, -2.0, 0.5, 0.4]))
    # each entry is given the least rate among the thresholds that include it
    assert q.tolist() == pytest.approx([0.5, 0.625, 0.625, 0.625])
    assert null.p_max(np.array([3.0, 1.0])).tolist() == pytest.approx([1 / 3, 1])


def of_levels(mask: np.ndarray, group: np.ndarray, chance: Chance) -> Associations:
    return level_preference(of_mask(mask), levels(mask), mask.shape[1], chance)


def of_labels(mask: np.ndarray, group: np.ndarray, chance: Chance) -> Associations:
    label = chance.rng.choice(3, group.max() + 1, p=[0.15, 0.2, 0.65])
    return label_preference(of_mask(mask), label[group], 3, chance)


def of_inner_labels(mask: np.ndarray, group: np.ndarray, chance: Chance) -> Associations:
    label = chance.rng.choice(3, len(group), p=[0.15, 0.2, 0.65])  # varies inside groups
    return label_preference(of_mask(mask), label, 3, chance)


def of_words(mask: np.ndarray, group: np.ndarray, chance: Chance) -> Associations:
    has = (chance.rng.random((group.max() + 1, 8)) < np.linspace(0.15, 0.8, 8))[group]
    problem, word = np.nonzero(has)
    indptr = np.r_[0, np.cumsum(np.bincount(problem, minlength=len(mask)))]
    return word_preference(of_mask(mask), indptr, word.astype(np.int32), 8, chance, top=8)


def of_tokens(mask: np.ndarray, group: np.ndarray, chance: Chance) -> Associations:
    token = chance.rng.geometric(0.3, (group.max() + 1, mask.shape[1])).clip(max=9)[group].ravel()
    return token_preference(of_mask(mask), token, 10, replace(chance, min_units=3), min_fires=4)


def of_numbers(mask: np.ndarray, group: np.ndarray, chance: Chance) -> Associations:
    return correlation(of_mask(mask), chance.rng.lognormal(size=group.max() + 1)[group], chance)


FACTORS = {
    "level": of_levels, "label": of_labels, "inner label": of_inner_labels, "word": of_words,
    "token": of_tokens, "number": of_numbers,
}  # fmt: skip


def random_mask(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sparse and dense latents, some firing in bursts, that have nothing to do with anything; and groups.

    `alone`: 60 problems, each its own group. `copies`: 40 in four copies each. `paraphrases`: 40 in one to
    eight versions, in which one firing of twenty differs, in any order.
    """
    rng = np.random.default_rng([seed, 1000])
    n = 60 if kind == "alone" else 40
    mask = rng.random((n, 6, 24)) < np.linspace(0.03, 0.6, 24)
    mask[:, :, ::3] &= rng.random((n, 1, 8)) < 0.5
    if kind == "alone":
        return mask, np.arange(n)
    group = np.repeat(np.arange(n), 4 if kind == "copies" else rng.integers(1, 9, n))
    if kind == "copies":
        return mask[group], group
    rng.shuffle(group)
    return mask[group] ^ (rng.random((len(group), 6, 24)) < 0.05), group


def false_discoveries(factor: str, kind: str, runs: int, n_permutations: int) -> int:
    false = 0
    for seed in range(runs):
        mask, group = random_mask(kind, seed)
        chance = Chance(
            n_permutations=n_permutations, seed=seed, min_units=5, group=None if kind == "alone" else group
        )
        found = FACTORS[factor](mask, group, chance)
        assert len(found) > 15
        false += found.q_value.min() <= 0.05
    return false


@pytest.mark.parametrize("kind", ["alone", "copies", "paraphrases"])
@pytest.mark.parametrize("factor", FACTORS)
def test_random_masks_come_out_as_nothing(factor, kind):
    # where nothing is to be found, a false-discovery rate of 0.05 is a chance of 0.05 to find anything:
    # 3 of 60, and more than 9 in one of 1,000 suites of twenty such tests
    assert false_discoveries(factor, kind, 60, 60) <= 9


@pytest.mark.long
@pytest.mark.parametrize("kind", ["alone", "copies", "paraphrases"])
@pytest.mark.parametrize("factor", FACTORS)
def test_false_discoveries_stay_at_their_rate(factor, kind):
    false = false_discoveries(factor, kind, 2000, 200)
    assert stats.binomtest(false, 2000).proportion_ci(0.95, "wilson").low <= 0.05


def test_copies_counted_one_by_one_are_what_groups_prevent():
    found = [
        of_labels(*random_mask("copies", seed), Chance(n_permutations=60, seed=seed, min_units=5))
        for seed in range(10)
    ]
    assert sum(one.q_value.min() <= 0.05 for one in found) >= 8


def test_copies_add_nothing_to_what_is_known():
    mask, group = random_mask("copies", 3)
    label = np.random.default_rng(0).integers(0, 3, 40)
    once = label_preference(of_mask(mask[::4]), label, 3, few())
    copied = label_preference(of_mask(mask), label[group], 3, replace(few(), group=group))
    for name in ("estimate", "p_max", "rate_in"):
        np.testing.assert_allclose(getattr(copied, name), getattr(once, name), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(copied.z, once.z, rtol=0.02)  # 40 groups have 39 degrees of freedom
    np.testing.assert_allclose(copied.high - copied.low, once.high - once.low, rtol=0.06)
    # 10 groups of four copies do not make 40 problems in which a latent fires
    assert len(label_preference(of_mask(mask), label[group], 3, few(min_units=41))) > 0
    needs = replace(few(min_units=41), group=group)
    assert len(label_preference(of_mask(mask), label[group], 3, needs)) == 0


def test_groups_of_and_rank_within():
    mask = np.random.default_rng(0).random((60, 6, 10)) < 0.1
    assert groups_of(of_mask(mask), few()).tolist() == mask.any(1).sum(0).tolist()
    assert rank_within(np.array([3, 3, 5, 5, 5, 9])).tolist() == [0, 1, 0, 1, 2, 0]
    assert rank_within(np.zeros(0, np.int64)).tolist() == []
