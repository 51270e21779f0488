"""The engine errs as often as it says; the full n is `thoughtlens bench calibration`."""

from __future__ import annotations

import pytest

from thoughtlens.ops.bench import calibration
from thoughtlens.ops.bench.calibration import CASES, Case, judge, replications, verdict_rates


def test_permuted_labels_are_rejected_rarely():
    found = calibration.null_rejections(20)
    # at 5 %, more than 4 of 20 happen in 0.3 % of cases
    assert found["best_cell"]["rate"] <= 4 / 20
    assert found["paired_comparison"]["rate"] <= 4 / 20


def test_intervals_hold_the_truth():
    found = calibration.coverage(60)
    for name in ("wilson", "paired", "bootstrap", "paired_bootstrap"):
        assert found[name]["rate"] >= 0.87, name


def test_torn_groups_score_where_there_is_nothing():
    found = calibration.leak()
    assert found["torn"]["accuracy"] > 0.85
    assert found["grouped"]["low"] < 1 / 3 < found["grouped"]["high"]


@pytest.mark.slow
def test_verdicts_name_a_side_as_rarely_as_they_say():
    found = verdict_rates(judge(Case(40), range(40)))
    # at 5 %, more than 6 of 40 happen in 0.3 % of cases
    assert found["side"]["rate"] <= 6 / 40
    assert min(one["rate"] for one in found["interval_holds"]) >= 0.88


@pytest.mark.slow
def test_nothing_known_of_a_rare_class_is_no_information():
    found = verdict_rates(judge(Case(60, share=0.1), range(12)))
    assert set(found["verdicts"]) <= {"no information", "inconclusive"}
    assert found["refused"] > 0  # fewer than five units of the class
    assert judge(Case(40, share=0.1, copies=4), range(2)) == []


@pytest.mark.slow
def test_verdicts_decide_as_often_as_fresh_data_would():
    case = CASES["n=600, 10 points"]
    assert verdict_rates(judge(case, range(8)))["side"]["rate"] >= 0.5
    assert replications(case, range(2))["difference"] == pytest.approx(0.1, abs=0.1)


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_full_calibration(name):
    case = CASES[name]
    found = verdict_rates(judge(case, range(400 if case.n == 600 else 2000)))
    if found["runs"] == 0:
        return
    if case.strength != (0.0, 0.0):
        fresh = replications(case, range(400))
        assert found["side"]["rate"] >= min(0.8, fresh["low"])
        return
    assert found["side"]["low"] <= 0.05
    assert found.get("side_of_others", found["side"])["low"] <= 0.05
    assert min(one["rate"] for one in found["interval_holds"]) >= 0.93
