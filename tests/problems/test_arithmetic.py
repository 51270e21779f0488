from __future__ import annotations

import collections
import re

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from thoughtlens.core import ConfigError, DataError
from thoughtlens.problems.tasks import arithmetic, words


def solve(question: str, p: int) -> list[int]:
    """Values along the queried chain, by reading the text alone."""
    words = question.split()
    name, x, count = words[-3], int(words[-2]), arithmetic.STEP_WORDS.index(words[-1]) + 1
    first = words.index(name) + 1
    values = []
    for op in words[first : first + count]:
        a = int(op[1:])
        x = {"+": x + a, "-": x - a, "*": x * a}[op[0]] % p
        values.append(x)
    return values


def test_operations_by_hand():
    # mod 11: 7 + 5 = 12 = 1;  7 - 9 = -2 = 9;  7 * 4 = 28 = 6
    s = arithmetic.Symbols(11)
    ops = np.array([s.words.index(w) - 11 for w in ("+5", "-9", "*4")])
    assert s.apply(np.array([7, 7, 7]), ops).tolist() == [1, 9, 6]
    assert s.is_times(ops).tolist() == [False, False, True]


@pytest.mark.parametrize("p", [11, 23])
def test_labels_follow_from_the_text(p):
    for row in arithmetic.problems(200, seed=3, p=p, n_steps=(1, 2, 3)).to_pylist():
        values = solve(row["question"], p)
        assert [row[f"v{i + 1}"] for i in range(3)] == values + [None] * (3 - len(values))
        assert row["answer"] == str(values[-1]) and row["n_steps"] == len(values)
        ops = [row[f"op{i + 1}"] for i in range(len(values))]
        steps = [w for pair in zip(ops, map(str, values), strict=True) for w in pair]
        assert row["cot"] == " ".join(steps[:-1])
        kinds = {op[0] == "*" for op in ops}
        expected = "mixed" if len(kinds) == 2 else "multiplication" if kinds == {True} else "addition"
        assert row["operation"] == expected


def test_every_question_holds_one_chain_of_each_class_and_no_operation_twice():
    for row in arithmetic.problems(100, seed=0).to_pylist():
        chains = [row["question"].split()[i : i + 4] for i in (0, 4, 8)]
        signs = [tuple("*" if op[0] == "*" else "+" for op in chain[1:]) for chain in chains]
        assert signs.count(("+", "+", "+")) == 1 and signs.count(("*", "*", "*")) == 1
        assert any(first != second for first, second, _ in signs)
        ops = [op for chain in chains for op in chain[1:]]
        assert len(set(ops)) == 9 and len({chain[0] for chain in chains}) == 3


def test_splits_share_no_path_and_one_path_in_ten_is_held_out():
    table = arithmetic.problems(6000, seed=1)
    groups = collections.defaultdict(set)
    for group, split in zip(table["group_id"].to_pylist(), table["split"].to_pylist(), strict=True):
        groups[group].add(split)
    assert all(len(splits) == 1 for splits in groups.values())
    # 600 expected, standard deviation 23
    assert abs(table["split"].to_pylist().count("test") - 600) < 100
    only = arithmetic.problems(50, seed=1, split="test")
    assert set(only["split"].to_pylist()) == {"test"}


def test_same_seed_same_problems():
    first, again = (arithmetic.problems(64, seed=5) for _ in range(2))
    assert first.equals(again)
    assert not first.equals(arithmetic.problems(64, seed=6))


def test_text_does_not_tell_the_operation():
    train, test = (
        arithmetic.problems(3000, seed=10, split="train"),
        arithmetic.problems(1500, seed=11, split="test"),
    )
    words = CountVectorizer(token_pattern=r"\S+", lowercase=False)
    x, y = words.fit_transform(train["question"].to_pylist()), train["operation"].to_pylist()
    probe = LogisticRegression(C=0.3, max_iter=300).fit(x, y)
    accuracy = probe.score(words.transform(test["question"].to_pylist()), test["operation"].to_pylist())
    # chance 1/3, standard deviation 1.2 points
    assert accuracy < 0.38


@pytest.mark.parametrize("change", ["start", "op1", "op2", "op3"])
def test_twins_differ_in_one_word_and_in_the_answer(change):
    first, second = arithmetic.twins(60, seed=2, split="test", change=change)
    for a, b in zip(first.to_pylist(), second.to_pylist(), strict=True):
        pairs = list(zip(a["question"].split(), b["question"].split(), strict=True))
        assert sum(x != y for x, y in pairs) == 1
        assert a["answer"] != b["answer"] and a["operation"] == b["operation"]
        assert solve(b["question"], 23) == [b["v1"], b["v2"], b["v3"]]
        assert a["split"] == b["split"] == "test" and a["group_id"] == b["group_id"]
        before, after = next(pair for pair in pairs if pair[0] != pair[1])
        sign = "" if change == "start" else before[0]
        assert re.fullmatch(r"\d+" if change == "start" else r"[+*-]\d+", before)
        assert after.startswith(sign) and after.removeprefix(sign).isdigit()  # only the operand changes
        assert [c for c in arithmetic.CHANGES if a[c] != b[c]] == [change]


def test_bad_requests_say_what_is_possible():
    with pytest.raises(DataError, match="train"):
        arithmetic.problems(10, seed=0, split="dev")
    for n, seed in ((0, 0), (-1, 0), (5, -1)):
        for make in (arithmetic.problems, arithmetic.twins, words.problems, words.twins):
            with pytest.raises(DataError, match=f"n={n}, seed={seed}"):
                make(n, seed=seed)
    with pytest.raises(DataError, match="n_steps"):
        arithmetic.problems(10, seed=0, n_steps=(4,))
    with pytest.raises(ConfigError, match="prime"):
        arithmetic.problems(10, seed=0, p=12)
    with pytest.raises(ConfigError, match="op3"):
        arithmetic.twins(10, seed=0, change="op3", n_steps=2)
