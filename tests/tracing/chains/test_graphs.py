"""Chains along graphs: found where they are walked, tested by another edge, and held against the answer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.tracing.chains.thinker import runs
from tests.tracing.chains.walker import Walker
from thoughtlens.latents import of_thoughts
from thoughtlens.problems import are_graphs, rule_of
from thoughtlens.problems.tasks import graphs, prontoqa, prosqa
from thoughtlens.tracing.chains.config import TraceConfig
from thoughtlens.tracing.chains.stage import _arm, _problem_rows, _Subject
from thoughtlens.tracing.chains.tried import CONTRADICTS, UNREAD, UNUSED, VERIFIED, trace
from thoughtlens.tracing.read.lenses import logit_lens
from thoughtlens.tracing.read.seen import shuffled

pytestmark = pytest.mark.slow  # fixtures of seconds

TABLE = prosqa.problems(12, seed=4, hops=(3, 4))
QUESTIONS = TABLE["question"].to_pylist()
TOM = "Every ape is a bee. Sue is a elk. Tom is a ape. Tom is a cat. Every bee is a dog. Every cat is a eel."
QUESTION = f"{TOM} Is Tom a elk or dog?"
RULE = Walker("used").rule([QUESTION])


def traced(kind, questions=QUESTIONS, letters=99, **options):
    model = Walker(kind, letters)
    return trace(model, runs(model), model.rule(questions), questions, **options)


def labels(found):
    return Counter(one.label for one in each(found))


def each(found):
    return (one for own in found.steps for one in own)


def chain(*readings, answer="Tom is a dog."):
    return [(one.follows, one.value, one.value_at) for one in RULE.join(QUESTION, ["so", *readings], answer)]


def test_a_walk_is_a_step_for_each_edge():
    assert chain("ape", "bee", "dog") == [("ape", "ape", 1), ("bee", "bee", 2), ("dog", "dog", 3)]
    assert str(RULE.join(QUESTION, ["so", "ape"], "")[0]) == "Tom is a ape → ape"
    assert chain("ape", "ape", "bee", "bee")[-1] == ("dog", "dog", 4)  # the answer, read in no thought
    assert chain("ape", "so", "dog")[1] == ("bee", None, 2)
    assert chain("ape", "eel", "dog")[1:] == [
        ("eel", "eel", 2),
        ("dog", "dog", 3),
    ]  # from others of the frontier
    assert chain("elk", "so") == [] == RULE.join("Who is Tom?", ["so", "ape"], "")


@pytest.mark.parametrize("letters", [99, 2])
def test_a_planted_walk_is_verified(letters):
    found = traced("used", letters=letters)
    for own, row in zip(found.steps, TABLE.to_pylist(), strict=True):
        verified = [one.step.value for one in own if one.label == VERIFIED]
        assert set(verified) <= set(row["path"])
    gold = sum(TABLE["n_steps"].to_pylist())
    assert labels(found)[VERIFIED] >= (0.95 if letters > 2 else 0.8) * gold


PRONTO = prontoqa.problems(6, seed=4, hops=(3,))["question"].to_pylist()


@pytest.mark.parametrize(
    ("kind", "label"), [("unused", UNUSED), ("unread", UNREAD), ("contradicts", CONTRADICTS)]
)
def test_each_planted_label_is_found(kind, label):
    found = traced(kind, QUESTIONS)
    # of a chain that contradicts, that is its end
    ends = [own[-1] for own in found.steps if own] if kind == "contradicts" else [*each(found)]
    assert len(ends) >= len(QUESTIONS) and all(one.label == label for one in ends)


def test_a_contradiction_is_the_chain_that_leads_to_the_other_one():
    for question, own in zip(QUESTIONS, traced("contradicts").steps, strict=True):
        asked = graphs.read(question)
        assert own[-1].step.value == asked.target
        assert RULE.leads(question, [own[-1].step], f"{asked.root} is a {asked.target}.")
        assert not RULE.leads(question, [own[0].step], f"{asked.root} is a {asked.other}.")


def test_a_step_that_no_thought_shows_is_found_between_two_that_are_read():
    found = traced("gap")
    assert all(own[1].label == UNREAD and own[1].step.value is None for own in found.steps)
    assert all(own[0].label == own[2].label == VERIFIED for own in found.steps)


def test_a_dead_end_that_is_read_is_no_verified_step_and_no_contradiction():
    for own, question in zip(traced("astray").steps, QUESTIONS, strict=False):
        path = graphs.read(question).path
        assert all(one.label == UNUSED for one in own if one.step.value not in {*path, None})
        assert CONTRADICTS not in {one.label for one in own}


def test_readings_of_other_problems_prove_nothing():
    found = traced("used", relabel=shuffled(len(QUESTIONS), np.random.default_rng(0)))
    assert labels(found)[VERIFIED] <= 0.02 * sum(TABLE["n_steps"].to_pylist())


def test_true_and_false_are_the_claim_and_its_opposite():
    told = "Each impus is not shy. Wumpuses are impuses. Tumpuses are shy. Rex is a wumpus."
    question = f"{told} True or false: Rex is shy."
    rule = Walker("used").rule([question])
    assert [rule.answer(question, said) for said in ("True", " It is false.", "not shy")] == [
        "shy", "not shy", "not shy",
    ]  # fmt: skip
    assert [one.value for one in rule.join(question, ["so", "wumpus", "impus"], "False")][-1] == "not shy"
    found = traced("used", PRONTO)
    assert labels(found)[VERIFIED] >= 0.95 * len(PRONTO) * 4  # three rules and the fact
    assert all(own[-1].label == CONTRADICTS for own in traced("contradicts", PRONTO).steps)


def test_a_twin_is_the_question_with_other_ends_and_the_other_answer():
    rng, n_changed = np.random.default_rng(0), Counter()
    for question in [*QUESTIONS, *PRONTO]:
        asked = graphs.read(question)
        rule = Walker("used").rule([question])
        steps = rule.join(question, ["so", *asked.path], asked.target)
        for k in range(1, len(steps) + 1):
            twin = rule.twin(question, steps[:k], rng)
            changed = graphs.read(twin.question)
            assert (changed.root, changed.target, changed.other) == (asked.root, asked.other, asked.target)
            assert twin.follows[steps[k - 1].operation] == changed.path[k - 1] != asked.path[k - 1]
            assert len(twin.question.split()) == len(question.split())
            n_changed[sum(a != b for a, b in zip(asked.sentences, changed.sentences, strict=True))] += 1
        assert graphs.read(rule.restarted(question, rng) or twin.question).target == asked.other
    assert n_changed[1] > 0.7 * n_changed.total()


def test_only_questions_along_graphs_are_walked():
    assert are_graphs(QUESTIONS) and not are_graphs([*QUESTIONS, "What is 7 + 8?"]) and not are_graphs([])
    assert rule_of(QUESTIONS, None) is None


def test_precision_and_recall_are_against_the_hops_of_the_labels():
    model, found = Walker("used"), traced("used")
    lenses = logit_lens(of_thoughts(model), model.spec.thoughts)
    subject = _Subject(TraceConfig(acts=Path("acts")), model, TABLE, model.rule(QUESTIONS), lenses)
    arm = _arm("thoughts", subject, found)
    assert (arm.precision.value, arm.recall.n) == (1.0, sum(TABLE["n_steps"].to_pylist()))
    assert arm.recall.value >= 0.95 and arm.found.value == arm.accuracy.value == 1
    for row, problem in zip(_problem_rows("thoughts", subject, found), TABLE.to_pylist(), strict=True):
        assert row.breaks_at is None and row.chain.endswith(f" → {problem['target']}")
        assert row.first_match == problem["n_steps"] and row.departs_at is None
