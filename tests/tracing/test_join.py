"""From readings to steps, and where a chain breaks; worked by hand, modulo 23."""

from __future__ import annotations

from tests.tracing.chains.thinker import RULE
from thoughtlens.problems import first_break

QUESTION = "dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"
# 11 *5 = 55 = 9, 9 +10 = 19, 19 *16 = 304 = 5
READ = ["<cot2>", "*5", "9", "+10", "19", "*16", "<ans>"]


def steps(readings, answer="5"):
    return [
        (s.before, s.operation, s.value, s.read_at, s.value_at) for s in RULE.join(QUESTION, readings, answer)
    ]


def test_readings_become_steps_and_the_last_value_is_the_answer():
    assert steps(READ) == [("11", "*5", "9", 1, 2), ("9", "+10", "19", 3, 4), ("19", "*16", "5", 5, 6)]


def test_an_operation_of_no_chain_opens_nothing_and_a_repeated_one_opens_one_step():
    assert steps(["", "+7", "9", "-3", "1", "", ""]) == []
    assert steps(["", "*5", "*5", "9", "", "", ""], "9") == [("11", "*5", "9", 1, 2)]


def test_a_value_that_is_not_read_is_left_open_and_the_next_step_begins_with_what_follows():
    assert steps(["", "*5", "ann", "+10", "19", "*16", ""])[:2] == [
        ("11", "*5", None, 1, 2),
        ("9", "+10", "19", 3, 4),
    ]


def test_where_a_chain_breaks():
    def breaks(readings, answer):
        return first_break(RULE.join(QUESTION, readings, answer), answer, 3)

    assert breaks(READ, "5") is None
    assert breaks([*READ[:4], "7", "*16", ""], "20") == 2  # 9 + 10 is not 7
    assert breaks(READ, "6") == 3
    assert breaks(READ[:3], "9") == 2  # it left after one step
    assert breaks(["", "*5", "ann", "+10", "7", "*16", ""], "20") == 1  # the first value was never seen
    assert breaks([""] * 7, "5") == 1
    assert first_break([], "5") == 1


def test_a_chain_that_stops_early_is_whole_where_nobody_knows_how_long_it_is():
    two = RULE.join(QUESTION, READ[:5], "19")
    assert first_break(two, "19") is None and first_break(two, "19", 3) == 3


def test_a_whole_chain_departs_where_its_operation_is_not_the_one_that_is_asked_for():
    # 11 - 11 = 0, 0 + 10 = 10, 10 * 16 = 160 = 22: whole, and its first operation is ann's
    said = ["", "-11", "0", "+10", "10", "*16", ""]
    steps = RULE.join(QUESTION, said, "22")
    assert RULE.wanted(QUESTION) == ["*5", "+10", "*16"]
    assert first_break(steps, "22", 3) is None
    assert first_break(steps, "22", 3, RULE.wanted(QUESTION)) == 1
    assert first_break(steps, "22", 3, ["-11", "+10", "*5"]) == 3
    assert first_break(RULE.join(QUESTION, READ, "5"), "5", 3, RULE.wanted(QUESTION)) is None
    one_too_many = RULE.join(QUESTION, READ, "5")
    assert first_break(one_too_many, "5", 2, ["*5", "+10"]) == 3
