"""Verdicts of effects, made by hand: they follow p adjusted for the number of edits."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from thoughtlens.interventions.effects.rows import numbered
from thoughtlens.interventions.intervene.config import InterveneConfig
from thoughtlens.interventions.intervene.records import EffectRow
from thoughtlens.interventions.intervene.summary import headline
from thoughtlens.numerics import compare


def effect(only_untouched, n=100, **about):
    """A row of an edit that breaks the answers of some of n problems."""
    found = compare(np.arange(n) >= only_untouched, np.ones(n, bool))
    d = found.difference
    numbers = {one.name: 0.0 for one in fields(EffectRow) if one.type == "float"}
    return EffectRow(
        **numbers
        | {
            "row": 0, "edit": "ablate_mean", "scope": "cell", "n": n, "n_groups": n, "test": found.test,
            "difference": d.estimate, "low": d.low, "high": d.high, "p": found.p, "verdict": found.verdict,
        }
        | about
    )  # fmt: skip


def test_the_largest_of_many_edits_follows_its_adjusted_p():
    # 7 of 100 answers lost: exact McNemar 2 / 2^7 = 0.0156
    alone = numbered([effect(7, thought_idx=0)])
    assert (alone[0].verdict, alone[0].p_holm) == ("worse", pytest.approx(2 / 2**7))
    rows = numbered([effect(7, thought_idx=0), *(effect(0, thought_idx=i) for i in range(1, 5))])
    assert rows[0].p_holm == pytest.approx(5 * 2 / 2**7) and rows[0].verdict == "inconclusive"
    largest = headline(InterveneConfig(), rows, [])["largest_effect"]
    assert (largest.value, largest.verdict) == (-0.07, "inconclusive")
    assert largest.p_holm == rows[0].p_holm
    # nine lost are worse even so: 5 * 2 / 2^9
    assert numbered([effect(9), *(effect(0) for _ in range(4))])[0].verdict == "worse"


def test_controls_are_a_family_of_their_own():
    rows = numbered([effect(7), *(effect(7, control="random") for _ in range(5))])
    assert [row.verdict for row in rows] == ["worse", *["inconclusive"] * 5]
    assert [row.p_holm is None for row in rows] == [False, *[True] * 5]


def test_what_is_beyond_a_random_change_is_adjusted_too():
    beyond = {"beyond_random": -0.05, "beyond_random_low": -0.09, "beyond_random_high": -0.01}
    one = replace(effect(7), **beyond, beyond_random_p=0.02, beyond_random_verdict="worse")
    assert numbered([one])[0].beyond_random_verdict == "worse"
    assert {row.beyond_random_verdict for row in numbered([one] * 3)} == {"inconclusive"}
