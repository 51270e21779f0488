"""The engine errs as often as it says; the full n is `thoughtlens bench calibration`."""

from __future__ import annotations

from thoughtlens.ops.bench import calibration


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
