"""Thresholds and verdicts, worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from thoughtlens.tracing.monitor.config import MonitorConfig
from thoughtlens.tracing.monitor.judged import FEW, Sample, against, alarms
from thoughtlens.tracing.monitor.records import Detector
from thoughtlens.tracing.monitor.truths import _broken_promises

CFG = MonitorConfig(acts=Path("acts"))


def sample(positive, n=40, groups=None):
    marked = np.arange(n) < positive
    return Sample("test", marked, ~marked, np.arange(n) if groups is None else groups)


def test_a_threshold_is_the_score_that_one_clean_problem_in_twenty_is_above():
    usual = np.arange(99.0)  # floor(.05 * 100) = 5: the fifth largest is 94; floor(.01 * 100) = 1: 98
    score = np.r_[[96.0, 95.0, 94.0, 99.0], np.zeros(36)]
    one, five = alarms(score, (0.01, 0.05), usual, sample(4))
    assert (one.threshold, five.threshold) == (98, 94)
    assert (one.recall.value, five.recall.value) == (0.25, 0.75)
    assert one.false_alarms.value == 0 < one.false_alarms.high


def test_too_few_clean_problems_set_no_threshold():
    one, five = alarms(np.zeros(40), (0.01, 0.05), np.arange(98.0), sample(4))
    assert one.threshold is None and one.recall is None and five.threshold is not None


def test_equal_scores_flag_nobody():
    (found,) = alarms(np.ones(40), (0.05,), np.ones(50), sample(4))
    assert found.recall.value == 0 == found.false_alarms.value


@pytest.mark.parametrize(("n", "few"), [(FEW, False), (FEW - 1, True)])
def test_fewer_than_ten_groups_of_either_kind_give_no_area(n, few):
    assert (sample(n).areas({"a": np.arange(40.0)}, n_resamples=100, seed=0) is None) == few


def test_groups_are_counted_and_not_rows():
    assert sample(20, groups=np.arange(40) // 4).few


def test_a_better_score_is_called_so_and_two_that_know_nothing_are_not_called_equal():
    own, rng = sample(60, n=400), np.random.default_rng(1)
    scores = {"good": own.positive + rng.normal(size=400) / 2}
    scores |= {name: rng.normal(size=400) for name in ("noise", "more")}
    areas = own.areas(scores, n_resamples=500, seed=0)
    good, nothing = against(areas, [("good", "noise"), ("noise", "more")], own, delta=0.03)
    assert good.difference.verdict == "better" and good.difference.p_holm <= 0.05 and good.difference.low > 0
    assert nothing.difference.verdict == "no information"


def test_a_score_that_flags_more_clean_problems_than_it_may_is_named():
    usual, flagged = np.zeros(199), np.r_[np.ones(30), np.zeros(10)]
    told = Detector(name="beyond", about="", role="score", alarms=alarms(flagged, (0.01,), usual, sample(10)))
    held = Detector(
        name="beyond", about="", role="score", alarms=alarms(usual[:40], (0.01,), usual, sample(10))
    )
    (note,) = _broken_promises("label", CFG, [told, held])
    assert "flags 67% of the clean problems of split test, where 1% were allowed" in note
