"""Choosing by hand-made numbers."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from thoughtlens.studies.sweep.choose import Candidate, choose, front, knee, pooled_noise


def candidate(idx, l0, *fvu, dead=0.0, d_sae=100, max_l0=1000.0, **described):
    return Candidate(
        idx=idx, label=f"s{idx}", fvu=fvu, l0=l0, dead_share=dead, d_sae=d_sae, max_l0=max_l0, **described
    )


def pick(candidates, rule="knee", max_dead=0.1):
    return choose(candidates, rule=rule, max_dead=max_dead, metric="fvu")


def test_the_front_leaves_out_what_another_beats():
    points = [(8, 0.3), (4, 0.5), (8, 0.4), (16, 0.3), (32, 0.1)]
    line = front([candidate(i, *point) for i, point in enumerate(points)])
    assert [c.idx for c in line] == [1, 0, 4]


def test_the_knee_by_hand():
    # x = log2 L0 in 0..1: 0, 1/3, 2/3, 1. y = fall of log10 FVU from 1 to 0.01: 0, 3/4, 7/8, 1.
    # bend = y - x: 0, 5/12, 5/24, 0
    line = [candidate(i, 2.0**i, 10 ** (-2 * fall)) for i, fall in enumerate((0, 3 / 4, 7 / 8, 1))]
    assert knee(line).idx == 1
    assert pick(line).idx == 1
    assert pick(line).rule == "knee"
    assert pick(line, rule="best").idx == 3


def test_a_front_that_does_not_bend_has_no_knee():
    straight = [candidate(i, 2.0**i, 10.0**-i) for i in range(4)]
    concave = [candidate(i, 2.0**i, 10 ** (-2 * fall)) for i, fall in enumerate((0, 0.1, 0.3, 1))]
    for line in (straight, concave, straight[:2]):
        assert knee(line) is None
        choice = pick(line)
        assert (choice.idx, choice.rule) == (line[-1].idx, "best")
        assert "has no knee" in choice.reason


def test_seed_noise_by_hand():
    # ln FVU: +-d around two means: pooled variance (2 d^2 + 2 d^2) / (1 + 1) = 2 d^2
    d = 0.1
    two = [candidate(i, 8, m * math.exp(d), m * math.exp(-d)) for i, m in enumerate((0.2, 0.3))]
    noise = pooled_noise([c.fvu for c in two])
    assert noise.df == 2
    assert noise.sd == pytest.approx(d * math.sqrt(2))
    # half the interval is t * sd * sqrt(1/2 + 1/2) = 4.303 * 0.1414 = 0.6085; ln(0.3 / 0.2) = 0.405
    assert stats.t.ppf(0.975, 2) * noise.sd == pytest.approx(0.6085, abs=1e-4)
    assert noise.separates(two[0].fvu, two[1].fvu) is False
    far = candidate(2, 8, 0.6, 0.6)
    assert noise.separates(two[0].fvu, far.fvu) is True  # ln 3 = 1.0986


def test_what_the_seeds_do_not_tell_apart_is_said_and_the_cheaper_one_taken():
    small = candidate(0, 16.1, 0.101, 0.103, 0.099, d_sae=1024)
    large = candidate(1, 16.0, 0.100, 0.102, 0.098, d_sae=4096)
    choice = pick([small, large])
    assert choice.idx == 0
    assert choice.within_noise == (1,)
    assert "s0 is cheaper" in choice.reason
    assert "Inside seed noise of it" in choice.reason
    clear = pick([small, candidate(1, 16.0, 0.050, 0.051, 0.049, d_sae=4096)])
    assert (clear.idx, clear.within_noise) == (1, ())
    assert "more than seed noise" in clear.reason


def test_one_seed_says_that_it_does_not_know():
    choice = pick([candidate(0, 8, 0.3), candidate(1, 16, 0.2)])
    assert choice.idx == 1
    assert choice.noise.sd is None
    assert "not known" in choice.reason


def test_budgets():
    dead = candidate(0, 8, 0.01, 0.01, dead=0.5)
    dense = candidate(1, 200, 0.001, 0.001, max_l0=100)
    fine = candidate(2, 8, 0.3, 0.3)
    assert pick([dead, dense, fine]).idx == 2
    none = pick([dead, dense])
    assert none.idx is None
    assert "No setting has at most 10% dead latents" in none.reason
    assert pick([dead, dense], max_dead=0.5).idx == 0
    assert pick([]).idx is None


def test_the_widest_of_the_short_descriptions_is_taken_whatever_its_fvu_and_dead_latents():
    few = candidate(0, 1, 0.2, 0.2, bits=(60.0, 62.0))
    narrow = candidate(1, 2, 0.1, 0.1, bits=(50.0, 50.0))
    wide = candidate(2, 2, 0.1, 0.1, bits=(52.0, 52.0), d_sae=400, dead=0.6)
    wider = candidate(3, 2, 0.1, 0.1, bits=(53.0, 53.0), d_sae=800)
    exact = candidate(4, 16, 0.02, 0.02, bits=(90.0, 91.0), d_sae=1600)
    every = [few, narrow, wide, wider, exact]
    choice = choose(every, rule="description", max_dead=None, metric="fvu", precision=0.1)
    assert (choice.idx, choice.rule) == (2, "description")
    assert "up to 10% of the variance" in choice.reason
    assert (
        "s1 takes the fewest, 50; of the 2 settings within 5% of it s2 is taken: d_sae 400" in choice.reason
    )
    assert choice.noise.df == 5
    # a budget of dead latents that is asked for holds
    kept = choose(every, rule="description", max_dead=0.2, metric="fvu")
    assert kept.idx == 1
    assert "at most 20% dead latents" in kept.reason
    alone = choose([few, narrow, exact], rule="description", max_dead=None, metric="fvu")
    assert "s1 takes the fewest, 50; it has L0 2, and no other is within 5% of it" in alone.reason
    # the L0 below which any dictionary reconstructs holds too
    dense = candidate(5, 200, 0.01, max_l0=24.0, bits=(1.0,))
    assert choose([few, dense], rule="description", max_dead=None, metric="fvu").idx == 0


def test_settings_that_cannot_be_described_are_not_recommended():
    choice = choose([candidate(0, 2, 0.1)], rule="description", max_dead=None, metric="fvu")
    assert choice.idx is None
    assert "every cell hardly varies" in choice.reason
