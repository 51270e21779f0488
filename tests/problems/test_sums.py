"""Steps of word problems: what follows from numbers at hand; worked by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from thoughtlens.problems import SumsRule, are_sums

PENS = "Ann has 6 boxes of 8 pens . She gives 5 pens away. How many pens are left?"
# 6 * 8 = 48, 48 - 5 = 43
RULE = SumsRule(lambda number: number)
HALVES = SumsRule(lambda number: number[:2] if len(number) > 2 else number)
"""Of a model that writes numbers of three digits in two tokens."""


def told(rule, question, readings):
    return [(one.operation, one.value) for one in rule.join(question, readings, "")]


def test_a_number_that_an_operation_gives_is_a_step():
    assert told(RULE, PENS, ["", "the", "48", "48", "43"]) == [("6*8", "48"), ("48-5", "43")]


def test_a_number_of_the_question_a_word_and_what_nothing_gives_are_no_steps():
    assert told(RULE, PENS, ["48", "8", "pens", "977", "five", "-3"]) == []


def test_another_order_of_the_same_chain_is_found_too():
    books = "Tom reads 12 pages, then 7, then 9. How many pages?"
    assert [value for _, value in told(RULE, books, ["", "19", "28"])] == ["19", "28"]
    assert [value for _, value in told(RULE, books, ["", "16", "28"])] == ["16", "28"]


def test_several_operations_may_give_what_is_read():
    (one,) = RULE.join("There are 2 dogs and 2 cats, and 9 birds.", ["", "4"], "4")
    assert {one.operation, *one.others} == {"2*2", "2+2"}


def test_a_percentage_a_dozen_and_decimals():
    assert told(RULE, "Of 150 pupils 20% are ill. How many?", ["", "30"]) == [("20%150", "30")]
    assert told(RULE, "Eggs cost $3 a dozen. What do 4 cost?", ["", "36"])[0][1] == "36"
    shop = SumsRule(lambda number: number.partition(".")[0])
    (one,) = shop.join("A pen costs $1.50 and he buys 9 of them.", ["", "13"], "")
    assert one.value == "13.5" and one.is_partial


def test_a_number_in_two_tokens_is_read_by_its_first_and_said_to_be_partial():
    (one,) = HALVES.join("There are 12 shelves with 34 books each.", ["", "40"], "408")
    assert (one.operation, one.value, one.word) == ("12*34", "408", "40") and one.is_partial
    assert str(one) == "12*34 → 408 (read as 40)"


def test_the_twin_changes_a_number_that_the_step_comes_from():
    steps, rng = RULE.join(PENS, ["", "48", "43"], "43"), np.random.default_rng(0)
    for _ in range(20):
        first, last = RULE.twin(PENS, steps[:1], rng), RULE.twin(PENS, steps, rng)
        a, b, c = (Fraction(word) for word in last.question.split() if word.isdigit())
        assert last.follows["48-5"] == str(a * b - c) != "43"
        a, b, c = (Fraction(word) for word in first.question.split() if word.isdigit())
        assert c == 5 and first.follows["6*8"] == str(a * b) != "48"


@pytest.mark.parametrize("question", ["6 of 6 boxes hold 6 pens.", "One pen."])
def test_a_number_that_stands_twice_has_no_twin(question):
    steps = RULE.join(question, ["", "36"], "36")
    assert all(RULE.twin(question, [one], np.random.default_rng(0)) is None for one in steps)


def test_the_answer_is_the_last_number_and_may_follow_by_one_operation_more():
    assert RULE.answer("", "The answer is: 1,043.") == "1043" and RULE.answer("", "none") == "none"
    chain = RULE.join(PENS, ["", "48"], "43")
    assert RULE.leads(PENS, chain, "43") and RULE.leads(PENS, chain, "48")
    assert not RULE.leads(PENS, chain, "977")


def test_word_problems_are_told_by_their_numbers():
    assert are_sums([PENS] * 10, ["43"] * 10)
    assert not are_sums([PENS] * 10, ["yes"] * 10) and not are_sums(["Is Tom a wumpus?"] * 3, ["1"] * 3)
    assert not are_sums([], [])
