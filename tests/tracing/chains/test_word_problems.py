"""Chains of word problems: found where they are, and not found where they are not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.tracing.chains.teller import Teller, table
from tests.tracing.chains.thinker import runs
from thoughtlens.latents import of_thoughts
from thoughtlens.problems import SumsRule
from thoughtlens.tracing.chains.tried import UNUSED, VERIFIED, trace
from thoughtlens.tracing.read.lenses import first_token
from thoughtlens.tracing.read.seen import shuffled

TABLE = table(40, seed=0)
QUESTIONS = TABLE["question"].to_pylist()


def traced(kind, **options):
    model = Teller(kind)
    return trace(model, runs(model), SumsRule(first_token(of_thoughts(model), None)), QUESTIONS, **options)


def labels(found):
    return Counter(one.label for own in found.steps for one in own)


def test_a_planted_chain_is_found_with_its_numbers_of_several_tokens():
    found, n_right, n_wrong = traced("used"), 0, 0
    for own, row in zip(found.steps, TABLE.to_pylist(), strict=True):
        gold = [str(int(row["v1"])), row["answer"]]
        for one in own:
            if one.label == VERIFIED:
                n_right += one.step.value in gold
                n_wrong += one.step.value not in gold
            assert one.step.is_partial == (len(one.step.value) > 2)
    # the beginning `40` may be that of another result than the model's, whose twin then does not follow
    assert n_right >= 0.6 * 2 * len(QUESTIONS) and n_wrong <= 0.02 * n_right


@pytest.mark.parametrize(("kind", "label"), [("unused", UNUSED)])
def test_a_chain_that_is_read_and_not_used_is_not_verified(kind, label):
    found = labels(traced(kind))
    assert found[label] and not found[VERIFIED]


def test_nothing_is_found_where_nothing_is_read():
    assert not labels(traced("silent"))[VERIFIED]


def test_readings_of_other_problems_give_no_verified_step():
    found = traced("used", relabel=shuffled(len(QUESTIONS), np.random.default_rng(0)))
    assert labels(found)[VERIFIED] <= 1
