"""A step is called what the model really does with it."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.tracing.chains.thinker import KINDS, RULE, Thinker, runs
from thoughtlens.latents import of_thoughts
from thoughtlens.models import tiny
from thoughtlens.problems import SumsRule, Twin, arithmetic, rule_of, words
from thoughtlens.tracing.chains.tried import CONTRADICTS, UNREAD, UNUSED, VERIFIED, trace
from thoughtlens.tracing.read.lenses import first_token, look, through
from thoughtlens.tracing.read.rules import can_read
from thoughtlens.tracing.read.seen import renamed, shuffled

pytestmark = pytest.mark.slow

TABLE = arithmetic.problems(60, seed=3, split="test")
QUESTIONS = TABLE["question"].to_pylist()


def labels(found):
    return Counter(one.label for own in found.steps for one in own)


def gold(table, i):
    row = table.slice(i, 1).to_pylist()[0]
    return [(row[f"op{k}"], str(row[f"v{k}"])) for k in range(1, row["n_steps"] + 1)]


@pytest.mark.parametrize(
    ("kind", "label"), list(zip(KINDS, (VERIFIED, UNUSED, UNREAD, VERIFIED, UNREAD), strict=True))
)
def test_a_planted_step_gets_its_label(kind, label):
    model = Thinker(kind)
    found = trace(model, runs(model), RULE, QUESTIONS)
    for own, row in zip(found.steps, TABLE.to_pylist(), strict=True):
        assert [one.number for one in own] == list(range(1, row["n_steps"] + 1))
        told = [one.label for one in own]
        last = CONTRADICTS if kind == "contradicts" else label
        if kind in ("unread", "hidden"):  # the last step's value is read in the answer
            last = VERIFIED
        assert told == [label] * (len(own) - 1) + [last], (row["question"], told)


def test_the_shipped_model_computes_the_chain_that_its_problem_asks_for():
    model = tiny.load("codi-tiny")
    found = trace(model, runs(model), RULE, QUESTIONS)
    right = 0
    for i, own in enumerate(found.steps):
        verified = [(one.step.operation, one.step.value) for one in own if one.label == VERIFIED and one.step]
        assert verified == gold(TABLE, i)[: len(verified)] or len(verified) < len(gold(TABLE, i))
        right += len(verified)
    assert right >= 0.95 * sum(TABLE["n_steps"].to_pylist())


def test_what_must_fail_fails():
    model = tiny.load("codi-tiny")
    rng = np.random.default_rng(0)
    for relabel in (
        shuffled(len(QUESTIONS), rng),
        renamed([*of_thoughts(model).words, ""], RULE.is_value, rng),
    ):
        found = trace(model, runs(model), RULE, QUESTIONS, relabel=relabel)
        assert labels(found)[VERIFIED] <= 0.02 * sum(TABLE["n_steps"].to_pylist())
    pause = tiny.load("codi-tiny", variant="pause")
    assert labels(trace(pause, runs(pause), RULE, QUESTIONS))[VERIFIED] == 0


def test_an_answer_of_another_problem_is_no_step_of_this_one():
    model = Thinker("used")
    found = trace(model, runs(model), RULE, QUESTIONS, relabel=shuffled(60, np.random.default_rng(1)))
    assert labels(found)[VERIFIED] == 0


@pytest.mark.parametrize(("module", "p"), [(arithmetic, 23), (words, 11)])
def test_a_rule_reads_the_question_as_its_generator_wrote_it(module, p):
    table = module.problems(200, seed=11, p=p)
    rule = rule_of(table["question"].to_pylist(), p)
    assert rule is not None
    rng = np.random.default_rng(5)
    for row in table.to_pylist():
        question, offered = row["question"], rule.offers(row["question"])
        assert rule.start(question) == str(row["start"]) and rule.asked(question) == row["n_steps"]
        assert len(offered) == 9 and {row["op1"], row["op2"]} <= set(offered)
        before = str(row["start"])
        assert rule.wanted(question) == [row[f"op{k}"] for k in range(1, row["n_steps"] + 1)]
        for k in range(1, row["n_steps"] + 1):
            assert rule.apply(before, row[f"op{k}"]) == str(row[f"v{k}"])
            changed = rule.change(question, row[f"op{k}"], before, rng)
            if changed is not None:
                assert (
                    sum(a != b for a, b in zip(changed.question.split(), question.split(), strict=True)) == 1
                )
                assert len(set(rule.offers(changed.question)) - set(offered)) == 1
                assert changed.follows[row[f"op{k}"]] != str(row[f"v{k}"])
            before = str(row[f"v{k}"])


def test_twins_of_the_generator_are_those_of_the_rule():
    first, second = arithmetic.twins(50, seed=1, change="op2")
    for mine, other in zip(first.to_pylist(), second.to_pylist(), strict=True):
        said = mine["question"].split()
        assert [other["op2"] if word == mine["op2"] else word for word in said] == other["question"].split()


def test_other_questions_have_no_rule():
    assert rule_of(["What is 7 + 8?", "How many apples?"], None) is None
    assert rule_of([QUESTIONS[0], "What is 7 + 8?"], 23) is None


def test_a_thought_that_a_problem_did_not_think_reads_as_nothing():
    readout = of_thoughts(tiny.load("codi-tiny"))
    x = torch.randn(5, readout.d, generator=torch.Generator().manual_seed(0))
    x[2] = torch.nan
    whole, part = look(through(readout), x), look(through(readout), x[[0, 1, 3, 4]])
    assert whole.words[2] == -1 and np.isnan([whole.shares[2, 0], whole.null[2], whole.entropy[2]]).all()
    for name in ("words", "shares", "null", "entropy"):
        one, other = getattr(whole, name), getattr(part, name)
        np.testing.assert_allclose(one[[0, 1, 3, 4]], other, rtol=1e-6)


def test_the_null_of_a_reading_is_what_the_others_give_its_word():
    lens = through(of_thoughts(tiny.load("codi-tiny")))
    x = torch.randn(4, 96, generator=torch.Generator().manual_seed(1))
    shares, own = lens.shares(x).double(), look(lens, x)
    best = shares.argmax(-1)
    by_hand = [float(shares[[j for j in range(4) if j != i], best[i]].mean()) for i in range(4)]
    np.testing.assert_allclose(own.null, by_hand, rtol=1e-4)
    held = look(lens, x[:2], crowd=own.crowd, among=[True, True])
    np.testing.assert_allclose(held.null, by_hand[:2], rtol=1e-4)
    strange = look(lens, x[:1], crowd=look(lens, x[1:]).crowd)
    np.testing.assert_allclose(strange.null, by_hand[:1], rtol=1e-4)
    assert np.isnan(look(lens, x[:1]).null).all()


def test_a_twin_with_a_number_that_the_model_lacks_is_no_twin(monkeypatch):
    model, few = tiny.load("codi-tiny"), ["ann +2 bob 3 once", "bob *3 ann 21 once", "dan +4 eve 20 twice"]
    rule = SumsRule(first_token(of_thoughts(model), None))
    assert not can_read(model, "ann +2 bob 35 once") and can_read(model, few[0])
    monkeypatch.setattr(SumsRule, "_near", lambda *_: iter([Fraction(35)]))
    assert rule.restarted(few[0], np.random.default_rng(0)) is not None
    monkeypatch.setattr(SumsRule, "twin", lambda *_: Twin("ann +2 bob 35 once", {}))
    assert len(trace(model, runs(model), rule, few * 8).steps) == 24
