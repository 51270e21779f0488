"""From sums over groups to a graph: what flows, what is shown, and how surely."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from thoughtlens.tracing.circuit.config import CircuitConfig
from thoughtlens.tracing.circuit.graph import COLUMNS, Trials
from thoughtlens.tracing.circuit.paths import OTHER, Edge

GROUPS, ANSWER = 40, 2
CFG = CircuitConfig.model_construct(least=0.15, q=0.05, seed=0)
ASKED, MADE, SAID, STRAIGHT, WEAK, NOISE, GUARD = (
    Edge("question: start", 0, "layers.0:kv"),
    Edge("thought 0", 1, "state"),
    Edge("thought 1", ANSWER, "layers.0:kv"),
    Edge("thought 0", ANSWER, "layers.0:kv"),
    Edge("thought 0", ANSWER, "layers.1:kv"),
    Edge(OTHER, 1, "layers.0:kv"),
    Edge(OTHER, 1, "layers.1:kv"),
)


@pytest.fixture(scope="module")
def trials():
    drawn = np.random.default_rng(0)

    def sums(share, spread=0.01, turned=0.0):
        found = np.zeros((GROUPS, len(COLUMNS)))
        found[:, 0] = 10
        found[:, 1] = 10 * (share + spread * drawn.standard_normal(GROUPS))
        found[:, 3], found[:, 4] = 10 * share, 10 * spread * drawn.standard_normal(GROUPS)
        found[:, 5] = 10 * turned + drawn.standard_normal(GROUPS)
        return found

    edges = {ASKED: sums(1.0), MADE: sums(0.9), SAID: sums(0.8), STRAIGHT: sums(0.16, 0.2), WEAK: sums(0.1)}
    edges |= {NOISE: sums(0.0), GUARD: sums(0.0, turned=0.3)}
    return Trials.of({("start", edge): own for edge, own in edges.items()}, GROUPS, np.array([5, 5, 5]))


@pytest.fixture(scope="module")
def rows(trials):
    return {
        Edge(row.source, int(row.target[-1]) if row.target != "answer" else ANSWER, row.route): row
        for row in trials.rows(CFG, "thoughts")
    }


def test_flows_multiply_along_the_way_and_add_up_where_ways_part(rows):
    assert rows[SAID].flow == pytest.approx(0.8, abs=0.02)
    assert rows[MADE].flow == pytest.approx(0.72, abs=0.02)
    assert not rows[WEAK].shown  # and yet it counts in what flows on
    onward = sum(rows[edge].flow for edge in (MADE, STRAIGHT, WEAK))
    assert rows[ASKED].flow == pytest.approx(onward, rel=0.02)
    assert rows[MADE].does == "carries"
    assert (rows[NOISE].does, rows[NOISE].shown) == (None, False)


def test_an_edge_that_carries_nothing_and_turns_its_target_guards(rows):
    assert (rows[GUARD].does, rows[GUARD].shown) == ("guards", True)
    assert rows[GUARD].flow == pytest.approx(0, abs=0.02)
    assert rows[GUARD].turned == pytest.approx(0.3, abs=0.05)


def test_stability_tells_sure_edges_from_chance(rows):
    assert rows[SAID].stability == rows[ASKED].stability == rows[GUARD].stability == 1
    assert 0 < rows[STRAIGHT].stability < 1
    assert rows[NOISE].stability < 0.1


def test_what_was_given_of_another_problems_change_shows_nothing(trials):
    rows = trials.shuffled().rows(CFG, "shuffled")
    assert len(rows) == len(trials.edges) and not any(row.shown for row in rows)


def test_targets_that_do_not_move_have_no_rows_and_one_group_shows_nothing(trials):
    still = {("start", SAID): np.zeros((GROUPS, len(COLUMNS)))}
    assert not Trials.of(still, GROUPS, np.array([5, 5, 5])).rows(CFG, "thoughts")
    one = replace(trials, sums=trials.sums[:1])
    with pytest.raises(Exception, match="2 clusters"):
        one.rows(CFG, "thoughts")
