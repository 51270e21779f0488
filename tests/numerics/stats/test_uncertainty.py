from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from thoughtlens import metrics
from thoughtlens.core import ConfigError, DataError
from thoughtlens.numerics import bootstrap_means


def test_wilson_by_hand():
    low, high = metrics.wilson(84, 120), metrics.wilson(100, 120)
    assert (low.low, low.high) == (pytest.approx(0.613, abs=5e-4), pytest.approx(0.775, abs=5e-4))
    assert (high.low, high.high) == (pytest.approx(0.757, abs=5e-4), pytest.approx(0.889, abs=5e-4))
    # k = 0: the lower limit is 0, the upper z^2 / (n + z^2)
    none = metrics.wilson(0, 10)
    assert (none.low, none.high) == (0, pytest.approx(1.959964**2 / (10 + 1.959964**2)))
    assert metrics.wilson(10, 10).low == pytest.approx(1 - none.high)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(DataError, match="0 <= k <= n"):
        metrics.wilson(k, n)


def test_mcnemar_by_hand():
    assert metrics.mcnemar_exact(26, 10) == pytest.approx(0.0113, abs=5e-5)
    assert metrics.mcnemar_exact(10, 26) == metrics.mcnemar_exact(26, 10)
    assert metrics.mcnemar_exact(0, 0) == 1
    assert metrics.mcnemar_exact(3, 3) == 1
    assert metrics.mcnemar_exact(5, 0) == pytest.approx(2 / 32)


def test_paired_proportions_by_hand():
    # one pair more of either: d = 16/122, se = sqrt((38 / 122 - d^2) / 122) = 0.049117, times 1.96
    got = metrics.paired_proportions(26, 10, 120)
    assert got.estimate == pytest.approx(16 / 120)
    assert (got.low, got.high) == (pytest.approx(0.0349, abs=5e-4), pytest.approx(0.2274, abs=5e-4))
    # 20 pairs that all agree: sqrt(2) * 1.96 / 22
    agree = metrics.paired_proportions(0, 0, 20)
    assert (agree.estimate, agree.low, agree.high) == pytest.approx((0, -0.126, 0.126), abs=5e-4)


@pytest.mark.parametrize(
    ("n", "first", "second"), [(12, 0.9, 0.7), (30, 1.0, 0.9), (40, 0.5, 0.5), (20, 1.0, 1.0)]
)
def test_paired_intervals_of_few_pairs_hold_the_truth(n, first, second):
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(500):
        a, b = rng.random(n) < first, rng.random(n) < second
        got = metrics.paired_proportions(int((a & ~b).sum()), int((b & ~a).sum()), n)
        assert got.low < got.high
        hits += got.low <= first - second <= got.high
    assert hits >= 0.93 * 500


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_share_of_nothing_or_all_has_a_width(level):
    hits = np.full(60, level)
    alone = metrics.proportion(hits)
    assert alone == metrics.wilson(int(hits.sum()), 60)
    grouped = metrics.proportion(hits, np.repeat(np.arange(15), 4))
    # four copies add nothing: as 15 clusters, and Student's quantile for them
    assert grouped.n == 15 and grouped.high - grouped.low > metrics.wilson(0, 15).high
    assert metrics.proportion(hits, inflation=2.0).high - metrics.proportion(hits, inflation=2.0).low > 0.1


def test_a_share_of_equal_copies_is_that_of_the_groups():
    rng = np.random.default_rng(3)
    once = rng.random(200) < 0.8
    alone = metrics.proportion(once)
    copied = metrics.proportion(np.repeat(once, 5), np.repeat(np.arange(200), 5))
    assert (copied.estimate, copied.n) == (alone.estimate, 200)
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), abs=0.002)
    # rows that have nothing to do with their group count as rows, as far as 50 groups can tell
    mixed = metrics.proportion(rng.permutation(np.repeat(once, 5)), np.repeat(np.arange(200), 5))
    assert mixed.high - mixed.low < 0.6 * (copied.high - copied.low)
    with pytest.raises(DataError, match="1 or 0"):
        metrics.proportion(np.array([0.5, 1.0]))


def test_grouped_shares_hold_the_truth():
    rng, hits = np.random.default_rng(5), 0
    clusters = np.repeat(np.arange(20), 6)
    for _ in range(400):
        share = rng.beta(9, 1, 20)  # near 1, where a bootstrap often has no width
        found = metrics.proportion(rng.random(120) < share[clusters], clusters)
        hits += found.low <= 0.9 <= found.high
    assert hits >= 0.93 * 400


def brute_power(n, difference, discordance, runs=20_000, seed=0):
    rng = np.random.default_rng(seed)
    p = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    b, c, _ = rng.multinomial(n, p, size=runs).T
    return float((2 * stats.binom.cdf(np.minimum(b, c), b + c, 0.5) <= 0.05).mean())


@pytest.mark.parametrize(
    ("n", "difference", "discordance"),
    [(120, 0.05, 0.15), (120, 0.1, 0.25), (600, 0.05, 0.25), (40, 0.0, 0.3)],
)
def test_mcnemar_power_equals_simulation(n, difference, discordance):
    exact = metrics.mcnemar_power(n, difference, discordance)
    assert exact == pytest.approx(brute_power(n, difference, discordance), abs=0.012)
    assert metrics.mcnemar_power(n, -difference, discordance) == pytest.approx(exact)


def test_mcnemar_power_by_hand():
    # n = 6, every pair disagrees, b ~ Bin(6, (1 + 0.5)/2): rejects only at b = 0 or 6 (2/64 <= 0.05)
    assert metrics.mcnemar_power(6, 0.5, 1.0) == pytest.approx(0.75**6 + 0.25**6)
    assert metrics.mcnemar_power(5, 1.0, 1.0) == 0  # 2/32 > 0.05: five pairs can never reject
    assert metrics.mcnemar_power(10, 0.0, 0.0) == 0
    with pytest.raises(ConfigError):
        metrics.mcnemar_power(10, 0.3, 0.2)


def test_the_minimal_detectable_difference_is_where_power_reaches_its_goal():
    mdd = metrics.minimal_detectable_difference(120, 0.3)
    assert metrics.mcnemar_power(120, mdd, 0.3) >= 0.8
    assert metrics.mcnemar_power(120, mdd - 2e-4, 0.3) < 0.8
    assert metrics.minimal_detectable_difference(600, 0.3) < mdd
    assert metrics.minimal_detectable_difference(5, 1.0) is None


def test_corrected_resampled_t_by_hand():
    # mean 2, s^2 1, J = 3: se = sqrt(1/3 + 20/80), t = 2 / 0.7638 = 2.6186, df 2
    got = metrics.corrected_resampled_t([1.0, 2.0, 3.0], n_train=80, n_test=20)
    assert got.t == pytest.approx(2 / math.sqrt(1 / 3 + 1 / 4))
    assert got.df == 2
    # p of t with 2 degrees of freedom: 1 - t / sqrt(2 + t^2)
    assert got.p == pytest.approx(1 - got.t / math.sqrt(2 + got.t**2))
    assert got.low < 0 < got.high
    assert metrics.corrected_resampled_t([0.0, 0.0], 8, 2).p == 1
    assert metrics.corrected_resampled_t([0.1, 0.1], 8, 2).p == 0
    with pytest.raises(DataError, match="two or more folds"):
        metrics.corrected_resampled_t([1.0], 8, 2)


def test_holm_by_hand():
    # sorted .01 * 3, .03 * 2, .04 * 1 raised to .06
    assert metrics.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.5, 0.9]).tolist() == [1, 1]
    assert metrics.holm([]).tolist() == []
    with pytest.raises(DataError):
        metrics.holm([0.5, float("nan")])


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.04, 0.2, "better"),
        (0.01, 0.2, "better"),
        (-0.2, -0.01, "worse"),
        (-0.02, 0.02, "equivalent"),
        (0.005, 0.02, "equivalent"),
        (-0.05, 0.05, "inconclusive"),
        (-0.01, 0.05, "inconclusive"),
        (0.0, 0.05, "inconclusive"),
    ],
)
def test_the_verdict_never_claims_a_side_with_zero_inside(low, high, word):
    assert metrics.verdict(low, high, delta=0.03) == word
    # nor with a p that is too large
    unsure = "inconclusive" if word in ("better", "worse") else word
    assert metrics.verdict(low, high, delta=0.03, p=0.053) == unsure


def test_four_against_none_of_twelve_is_no_side():
    a, b = np.arange(12) < 10, (np.arange(12) >= 4) & (np.arange(12) < 10)
    got = metrics.compare(a, b)
    assert (got.b, got.c, got.p) == (4, 0, 0.125) and got.verdict == "inconclusive"
    # six against none is one: p = 1/32
    assert metrics.compare(np.arange(12) < 10, np.arange(12) < 4).verdict == "better"


def test_verdicts_of_a_family_follow_its_correction():
    # each alone: p = 0.02 (side) and, of the last, within the margin
    ends = metrics.Tested(0.01, 0.09, 400, 0.02)
    assert metrics.family([ends])[0] == (0.02, "better")
    three = metrics.family([ends] * 3, delta=0.03)
    assert [one.p_holm for one in three] == pytest.approx([0.06] * 3)
    assert {one.verdict for one in three} == {"inconclusive"}
    # a p of its own is followed, not the interval
    assert metrics.family([metrics.Tested(0.01, 0.2, 50, 0.3)])[0].verdict == "inconclusive"
    # half width 0.02 around 0: t of the margin is 0.03 / 0.0102 = 2.95, p 0.0034, times 20 is 0.068
    alike = metrics.Tested(-0.02, 0.02, 400)
    assert metrics.family([alike] * 10)[0].verdict == "equivalent"
    assert metrics.family([alike] * 20)[0].verdict == "inconclusive"
    assert metrics.family([]) == []


def test_permutation_p_and_the_best_of_many_cells():
    assert metrics.permutation_p(0.9, np.array([0.5, 0.9, 0.95, 0.1])) == 3 / 5
    null = np.array([[0.5, 0.7], [0.6, 0.4], [0.9, 0.5]])  # best of each: 0.7, 0.6, 0.9
    assert metrics.max_statistic(np.array([0.8, 0.95]), null).tolist() == [2 / 4, 1 / 4]
    with pytest.raises(DataError):
        metrics.permutation_p(0.5, np.array([]))


def test_identical_arms_differ_by_nothing():
    correct = np.arange(500) % 3 > 0
    got = metrics.compare(correct, correct)
    assert (got.difference.estimate, got.p, got.b, got.c) == (0, 1, 0, 0)
    assert got.verdict == "equivalent"
    assert got.minimal_detectable_difference is None
    assert metrics.compare(correct[:20], correct[:20]).verdict == "inconclusive"  # 20 pairs cannot say


def test_compare_by_hand():
    # 84 right in both or one only: b = 26, c = 10 of n = 120
    a = np.array([1] * 74 + [1] * 26 + [0] * 10 + [0] * 10, dtype=bool)
    b = np.array([1] * 74 + [0] * 26 + [1] * 10 + [0] * 10, dtype=bool)
    assert (a.sum(), b.sum()) == (100, 84)
    got = metrics.compare(a, b)
    assert (got.b, got.c, got.n_rows, got.n_clusters, got.verdict) == (26, 10, 120, 120, "better")
    assert got.p == pytest.approx(0.0113, abs=5e-5)
    assert got.difference.low == pytest.approx(0.0349, abs=5e-4)
    assert metrics.compare(b, a).verdict == "worse"
    assert got.to_json()["difference"]["method"] == "Bonett-Price"


def test_copies_of_a_row_add_no_certainty():
    rng = np.random.default_rng(0)
    a, b = rng.random(60) < 0.8, rng.random(60) < 0.6
    once = metrics.compare(a, b, np.arange(60))
    copied = metrics.compare(np.repeat(a, 50), np.repeat(b, 50), np.repeat(np.arange(60), 50))
    assert copied.n_clusters == 60
    assert copied.p == once.p
    width = once.difference.high - once.difference.low
    assert copied.difference.high - copied.difference.low == pytest.approx(width, rel=0.2)


def test_the_bootstraps_agree_where_they_do_the_same():
    rng = np.random.default_rng(1)
    clusters = rng.integers(0, 40, 300)
    values = rng.normal(size=300) + clusters / 10
    mean = metrics.bootstrap_mean(values, clusters, seed=3)
    general = metrics.cluster_bootstrap(lambda w: float(np.average(values, weights=w)), clusters, seed=3)
    assert (general.low, general.high) == pytest.approx((mean.low, mean.high), abs=0.03)
    assert general.estimate == pytest.approx(mean.estimate) == pytest.approx(values.mean())
    difference = metrics.paired_difference(values, np.zeros(300), clusters, seed=3)
    assert difference == mean
    assert mean.n == len(set(clusters))


def test_bootstrap_ratio_is_a_ratio_of_sums():
    # 1/1 and 3/9: the ratio of sums is 4/10, the mean of ratios 2/3
    got = metrics.bootstrap_ratio(np.array([1.0, 3.0]), np.array([1.0, 9.0]))
    assert got.estimate == 0.4
    assert (got.low, got.high) == (pytest.approx(1 / 3), 1)
    with pytest.raises(DataError, match="sums to 0"):
        metrics.bootstrap_ratio(np.ones(2), np.zeros(2))


def test_order_and_names_of_clusters_change_nothing_and_seeds_do():
    values = np.random.default_rng(2).normal(size=100)
    names = np.array([f"problem {i // 4:03d}" for i in range(100)])
    got = metrics.bootstrap_mean(values, names)
    turned = metrics.bootstrap_mean(values[::-1].copy(), names[::-1].copy())
    assert (turned.low, turned.high) == pytest.approx((got.low, got.high))
    assert metrics.bootstrap_mean(values, names) == got
    assert metrics.bootstrap_mean(values, names, seed=1) != got


def test_one_cluster_has_no_interval():
    with pytest.raises(DataError, match="at least 2 clusters"):
        metrics.bootstrap_mean(np.ones(10), np.zeros(10))
    with pytest.raises(DataError, match="finite"):
        metrics.bootstrap_mean(np.array([1.0, np.nan]))
    with pytest.raises((DataError, TypeError)):
        metrics.paired_difference(np.ones(3), np.ones(2))


def coverage(n_clusters, per_cluster, runs, seed):
    """Share of runs whose 95 % interval holds the true mean 0.5 of clustered coin flips."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(n_clusters), per_cluster)
    hits = 0
    for run in range(runs):
        share = rng.beta(2, 2, n_clusters)  # each cluster has its own rate, mean 0.5
        values = (rng.random(len(clusters)) < share[clusters]).astype(float)
        got = metrics.bootstrap_mean(values, clusters, n_resamples=500, seed=run)
        hits += got.low <= 0.5 <= got.high
    return hits / runs


@pytest.mark.parametrize("n_clusters", [30, 100])
def test_cluster_intervals_cover_as_they_say(n_clusters):
    # 400 runs: the standard error of a coverage of 0.95 is 0.011
    assert 0.925 <= coverage(n_clusters, 6, runs=400, seed=n_clusters) <= 0.975


def test_mcnemar_rejects_no_more_than_it_should_under_the_null():
    rng = np.random.default_rng(4)
    p = []
    for _ in range(400):
        a, b = rng.random((2, 150)) < 0.7
        p.append(metrics.compare(a, b).p)
    # exact tests are conservative: at most 5 %, and not useless
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.07


@pytest.mark.parametrize("values", [[0.2, 1.0, 0.9], [float("nan"), 1.0, 0.0], [1, 2, 0]])
def test_compare_takes_right_and_wrong_only(values):
    with pytest.raises(DataError, match=r"1 for right and 0 for wrong.*compare_values"):
        metrics.compare(np.array(values), np.array([1, 0, 1]))


def test_means_over_few_clusters_have_students_interval():
    # clusters of two: means 1, 2, 6; sd 2.6458, error 1.5275, t(2) 4.3027: 3 -+ 6.572, and no norm is below 0
    values, clusters = np.array([[0.0, 2, 1, 3, 5, 7]]).T, [0, 0, 1, 1, 2, 2]
    (found,) = bootstrap_means(values, clusters)
    assert (found.estimate, found.low, found.high) == (3, 0, pytest.approx(9.572, abs=1e-3))
    (shifted,) = bootstrap_means(values - 1, clusters)
    assert shifted.low == pytest.approx(-4.572, abs=1e-3)
    (share,) = bootstrap_means(np.array([[0.0, 0, 1, 1, 1, 1]]).T, clusters)
    assert (share.low, share.high) == (0, 1)
    many = np.arange(60.0)[:, None]
    assert bootstrap_means(many, range(60))[0].high < 36
