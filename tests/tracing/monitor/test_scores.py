"""The two scores on thoughts that are made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tracing.chains.thinker import RULE, Thinker
from tests.tracing.monitor.seen import SIZES, Keeper, odd, questions, seen_by
from thoughtlens.latents import of_thoughts
from thoughtlens.numerics.stats.auc import weighted_auc
from thoughtlens.tracing.monitor.scores import MISSING, Beyond, contradictions, explained, order
from thoughtlens.tracing.monitor.watched import joined, watch


def test_answers_that_follow_from_the_thoughts_contradict_nothing():
    assert contradictions(RULE, seen_by("used")).max() < 0.1


def test_an_answer_that_is_another_value_contradicts_the_thoughts():
    told, follows = (contradictions(RULE, seen_by(kind)) for kind in ("contradicts", "used"))
    assert told.min() > 5 > follows.max()


def test_every_value_that_nobody_can_read_counts_as_missing():
    seen = seen_by("unread", 12)  # its operations are read, its last value is the answer
    asked = np.array([RULE.asked(question) for question in seen.questions])
    np.testing.assert_allclose(contradictions(RULE, seen), MISSING * (asked - 1), atol=0.1)


def test_leaving_before_a_step_is_done_is_a_step_missing():
    seen = seen_by("used", 30)
    first = [said[2] for said in seen.said]
    early = replace(seen.until(2), answers=first, heard=first)
    long = np.array([RULE.asked(question) > 1 for question in seen.questions])
    assert (contradictions(RULE, early)[long] >= MISSING).all()
    assert (early.had.sum(1) == 3).all() and [len(said) for said in early.said] == [3] * 30


def test_without_a_rule_an_answer_that_is_read_is_less_surprising_than_one_that_is_not():
    told, read = (contradictions(None, seen_by(kind)) for kind in ("contradicts", "used"))
    assert np.median(read) < -1 < np.median(told)


def test_the_thoughts_of_another_problem_do_not_fit_the_answer():
    seen = seen_by("used")
    other = seen.thinking_of(order(40, np.random.default_rng(0)))
    assert (contradictions(RULE, other) > 1).mean() > 0.9
    assert other.answers == seen.answers


@pytest.fixture(scope="module")
def kept():
    """A model that holds a second thing in some problems, fitted on those without: (clean, held, score)."""
    model = Keeper()
    fit, test = (watch(model, of_thoughts(model), questions(900, seed), **SIZES) for seed in (1, 2))
    clean = np.flatnonzero([not odd(question) for question in fit.questions])
    columns = explained(RULE, fit)
    usual = Beyond([[column[i] for i in clean] for column in columns], fit.take(clean))
    return np.array([odd(question) for question in test.questions]), test, usual


def test_what_is_held_beside_the_chain_is_far_from_usual(kept):
    held, test, usual = kept
    score = usual.score(explained(RULE, test), test)
    assert weighted_auc(held.astype(int), score)(np.ones(len(held))) > 0.97
    assert abs(np.median(score[~held])) < 0.7  # as far as a typical clean problem


def test_the_distance_has_no_unit(kept):
    test = kept[1].take(np.arange(120))
    ten = replace(test, states=10 * test.states, inputs=10 * test.inputs)
    columns = explained(RULE, test)
    own = Beyond(columns, test).score(columns, test)
    np.testing.assert_allclose(Beyond(columns, ten).score(columns, ten), own, atol=1e-6)


def test_a_problem_without_thoughts_holds_nothing(kept):
    _, test, usual = kept
    nothing = test.until(0)
    assert (usual.score(explained(RULE, nothing), nothing) == -MISSING).all()
    half = test.until(3)
    assert np.isfinite(usual.score(explained(RULE, half), half)).all()


def test_too_few_problems_say_nothing_of_what_is_usual():
    seen = seen_by("used", 8)
    columns = explained(None, seen)
    assert np.isnan(Beyond(columns, seen).score(columns, seen)).all()


def test_runs_are_put_after_each_other_and_taken_apart_again():
    a, b = seen_by("used", 5), seen_by("contradicts", 4)
    both = joined([a, b])
    assert both.answers == [*a.answers, *b.answers]
    again = both.take(np.arange(5, 9))
    assert torch.equal(again.states, b.states) and (again.first.margin == b.first.margin).all()


def test_an_answers_word_is_its_number_or_what_it_begins_with():
    class Talker(Thinker):
        def answer(self, state, max_new_tokens=256, teacher_ids=None):
            found = super().answer(state, max_new_tokens, teacher_ids)
            return replace(found, text=["The answer is: 7", " ann and bob", "1234", "no such word"])

    model = Talker("used")
    seen = watch(model, of_thoughts(model), questions(4), **SIZES)
    assert sorted(seen.heard) == ["12", "7", "ann", "no such word"]
    assert set(seen.answers) == {"The answer is: 7", "ann and bob", "1234", "no such word"}
