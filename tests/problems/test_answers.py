from __future__ import annotations

import pytest

from thoughtlens.problems.tasks import numbers
from thoughtlens.problems.tasks.answers import same_answer


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("The answer is: B", "B", True),
        ("B: enforce", "B", True),
        ("(C) x", "C", True),
        ("I think it is (D).", "D", True),
        ("A dog", "A", False),
        ("Because", "B", False),
        ("", "B", False),
        ("The answer is: True", "True", True),
        ("The answer is: No", "False", True),
        ("So it is false.", "True", False),
        ("### Tom is a lempus", "Tom is a lempus.", True),
        ("Tom is a lempus. ### Tom is a scrompus.", "Tom is a lempus.", False),
    ],
)
def test_answers_that_are_no_numbers(text, gold, right):
    assert same_answer(text, gold) is right


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("1,026", "1026"), ("$-3.50", "-3.5"), ("-$3.50", "-3.5"), ("12 apples", "12"), ("5%", "5"),
        ("1/2", "0.5"), ("1e+16", "1" + "0" * 16), (-2.5, "-2.5"), ("so #### 42", "42"), ("30.", "30"),
        ("−4", "-4"), ("n/a", None), ("3 or 4", None), ("A", None), ("1,2", None), (True, None), (None, None),
    ],
)  # fmt: skip
def test_numbers_of_answers(said, plain):
    found = numbers.answer(said)
    assert (None if found is None else numbers.plain(found)) == plain


def test_numbers_in_sentences():
    text = "Twelve of 1,200 eggs cost $12.50; 3D, two-thirds, .5 and 20%."
    assert [one.text for one in numbers.in_text(text)] == ["Twelve", "1,200", "12.50", ".5", "20"]
    like = {"1,200": "1,300", "Twelve": None, "12.50": "1300.00"}
    assert {form: numbers.written_like(numbers.read("1300"), form) for form in like} == like
    assert numbers.written_like(numbers.read("7"), "Twelve") == "Seven"
