"""What is current at each thought of a problem."""

from __future__ import annotations

import pyarrow as pa

from thoughtlens.problems.tasks import arithmetic, words
from thoughtlens.problems.tasks.roles import roles


def by_name(table, n_thoughts=7):
    return {role.name: role for role in roles(table, n_thoughts).roles}


def of(role, problem):
    return {thought: values[problem] for thought, values in role.values.items()}


def test_roles_of_one_chain_by_hand():
    # 11, then *4 (44 = 21 mod 23), then -3 (18): two steps, thoughts 5 and 6 come after the end.
    table = arithmetic.problems(40, seed=0, n_steps=(2, 3))
    row = next(i for i, n in enumerate(table["n_steps"].to_pylist()) if n == 2)
    one = table.slice(row, 1).to_pylist()[0]
    found = by_name(table)
    ops, values = [one["op1"], one["op2"]], [one["start"], one["v1"], one["v2"]]
    assert of(found["operation being read"], row) == {1: ops[0], 3: ops[1], 5: None}
    assert of(found["operation just read"], row) == {2: ops[0], 4: ops[1], 6: None}
    so_far = {1: values[0], 2: values[1], 3: values[1], 4: values[2], 5: values[2], 6: values[2]}
    assert of(found["value so far"], row) == so_far
    assert of(found["value before"], row) == {2: values[0], 4: values[1], 6: values[2]}
    stages = of(found["chain"], row)
    assert [stages[t] for t in (1, 2, 3, 4, 5, 6)] == [
        "one step before its last", "one step before its last", "at its last step", "at its last step",
        "finished", "finished",
    ]  # fmt: skip
    multiplied = (
        of(found["value so far, multiplying"], row)[2],
        of(found["value before, multiplying"], row)[2],
    )
    added = of(found["value so far, adding or subtracting"], row)[2]
    times = ops[0].startswith("*")
    assert (*multiplied, added) == ((values[1], values[0], None) if times else (None, None, values[1]))
    words_ = one["question"].split()
    assert of(found["name asked for"], row)[0] == words_[-3]
    assert of(found["offered as second"], row) == {0: [words_[2], words_[6], words_[10]]}
    assert of(found["chain asked for"], row) == {0: ops}
    assert set(of(found["answer"], row).values()) == {one["answer"]}


def test_problems_in_sentences_have_the_same_roles():
    table = words.problems(20, seed=1)
    found, other = by_name(table), by_name(arithmetic.problems(20, seed=1))
    assert set(other) - set(found) == {"offered as first", "offered as second", "offered as third"}
    assert of(found["name asked for"], 3)[0] == table["name"].to_pylist()[3]
    by = roles(table, 7).by
    assert by is not None and by[0] == "n_steps" and by[1]["2"] == "two-step problems"


def test_fewer_thoughts_and_steps_without_a_value():
    table = arithmetic.problems(30, seed=2)
    assert max(max(role.values) for role in roles(table, 4).roles if role.values) == 3
    assert all(set(role.values) <= {0} for role in roles(table, 1).roles)


def test_a_table_of_unknown_source_has_the_roles_that_it_names():
    table = pa.table(
        {"answer": ["1", "2"], "n_steps": [1, 2], "v1": [3, 4], "carry@1": [0, 1], "carry@3": [1, None]}
    )
    found = roles(table, 4)
    assert [role.name for role in found.roles] == ["carry"] and found.by is None
    assert of(found.roles[0], 1) == {1: 1, 3: None}
    assert roles(pa.table({"answer": ["1"], "carry": [0], "mail@home": ["x"]}), 4).roles == []


def test_a_chain_with_unknown_length_has_no_roles():
    table = arithmetic.problems(5, seed=0)
    at = table.column_names.index("n_steps")
    torn = table.set_column(at, "n_steps", pa.array([None, 2, 3, 2, 2], pa.int64()))
    assert roles(torn, 7).roles == []
