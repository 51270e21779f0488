from __future__ import annotations

import numpy as np
import pytest

from thoughtlens.core import ConfigError
from thoughtlens.evals.validity.probe import bag_of_words
from thoughtlens.problems.tasks import arithmetic, patterns, words

SIGNS = {word: sign for rows in patterns.VERBS.values() for sign, verbs in zip("+-*", rows, strict=True)
         for verb in verbs.split() for word in verb.split("_")}  # fmt: skip
PLACES = {"first": 1, "initially": 1, "then": 2, "next": 2, "finally": 3, "lastly": 3, "last": 3}
COUNTS = {"one": 1, "two": 2, "three": 3}


def understood(question: str, p: int) -> tuple[int, dict[int, str]]:
    """Answer and operations of the person asked for, read from the sentences alone."""
    names = set(words.NAMES)
    rules: dict[str, dict[int, str]] = {}
    *told, query = question.replace(" ?", "").split(" . ")
    if len(told) == 4:  # one query pattern has a full stop of its own
        query = f"{told.pop()} {query}"
    for sentence in told:
        name = sign = place = None
        for word in sentence.split():
            name = word if word in names else name
            place = PLACES.get(word, place)
            sign = SIGNS.get(word, sign) if word not in ("by", "of", "a") else sign
            if word.isdigit():
                rules.setdefault(name, {})[place] = sign + word
    asked = [w for w in query.split() if w in names]
    start = [int(w) for w in query.split() if w.isdigit()]
    n_steps = [COUNTS[w] for w in query.split() if w in COUNTS]
    assert len(asked) == len(start) == len(n_steps) == 1 and len(rules) == 3
    value = start[0]
    for i in range(1, n_steps[0] + 1):
        value = eval(f"{value} {rules[asked[0]][i][0]} {rules[asked[0]][i][1:]}") % p
    return value, rules[asked[0]]


def test_sentences_say_what_the_columns_say():
    for split in ("any", "test"):
        table = words.problems(400, seed=1, split=split, n_steps=(1, 2, 3)).to_pylist()
        for row in table:
            answer, rule = understood(row["question"], 11)
            assert answer == int(row["answer"])
            ops = [row[f"op{i}"] for i in range(1, row["n_steps"] + 1)]
            assert ops == [rule[i] for i in range(1, row["n_steps"] + 1)]
            assert row["cot"].split()[::2] == ops and row["name"] in row["question"].split()


def test_wording_of_test_problems_stands_in_no_other_split():
    table = words.problems(6000, seed=2)
    rows = {
        split: [r for r in table.to_pylist() if (r["split"] == "test") == split] for split in (True, False)
    }
    assert len(rows[True]) > 400
    for column in ("name", "template_id", "query_id", "group_id"):
        new, known = ({r[column] for r in rows[split]} for split in (True, False))
        assert new and known and not new & known, column
    held = set(patterns.HELD_OUT_NAMES.split())
    for split in (True, False):
        for row in rows[split]:
            people = set(row["question"].split()) & set(words.NAMES)
            assert len(people) == 3 and (people <= held if split else not people & held)


def test_held_out_patterns_use_known_words_only():
    train = words.problems(4000, seed=3, split="train", n_steps=(1, 2, 3))
    known = {w for q in train["question"].to_pylist() for w in q.split()} | set(words.NAMES)
    test = words.problems(1000, seed=3, split="test", n_steps=(1, 2, 3))
    assert {w for q in test["question"].to_pylist() for w in q.split()} <= known <= set(words.vocabulary())


def test_the_vocabulary_covers_every_question_and_the_longest_fits():
    vocabulary = words.vocabulary()
    assert len(vocabulary) == len(set(vocabulary)) and vocabulary[:11] == [str(i) for i in range(11)]
    longest = max(len(q.split()) for q in words.problems(3000, seed=4)["question"].to_pylist())
    # every pattern at its longest at once is rare, so the bound need not be met
    assert longest <= words.question_len() <= longest + 15
    assert len(words.ALL_PATTERNS) >= 36 and len(vocabulary) >= 200


def test_a_bag_of_words_does_not_see_the_class():
    train, test = (words.problems(2000, seed=s, split=split) for s, split in ((5, "train"), (6, "test")))
    right, n = bag_of_words(train, test)
    # 1/3 plus three standard errors of sqrt(2/9 / 2000) = 0.0105
    assert right / n < 1 / 3 + 0.032


@pytest.mark.parametrize("change", words.CHANGES)
def test_twins_differ_in_one_number_word(change):
    first, second = words.twins(60, seed=7, split="test", change=change)
    for a, b in zip(first.to_pylist(), second.to_pylist(), strict=True):
        differ = [(x, y) for x, y in zip(a["question"].split(), b["question"].split(), strict=True) if x != y]
        assert len(differ) == 1 and differ[0][0].isdigit() and differ[0][1].isdigit()
        assert a["answer"] != b["answer"] and a["split"] == b["split"] == "test"
        assert a["group_id"] == b["group_id"] and b["problem_id"] == f"{a['problem_id']}-twin"
        assert understood(b["question"], 11)[0] == int(b["answer"])
        changed = [c for c in words.CHANGES if a[c] != b[c]]
        assert changed == [change]


def test_a_seed_fixes_everything_and_paths_split_as_in_arithmetic():
    assert words.problems(50, seed=8).equals(words.problems(50, seed=8))
    assert not words.problems(50, seed=8).equals(words.problems(50, seed=9))
    a, w = arithmetic.problems(50, seed=8, p=11), words.problems(50, seed=8)
    for column in ("group_id", "split", "answer", "cot", "operation", "v1", "v2", "v3"):
        assert a[column].equals(w[column]), column
    assert a["question"].to_pylist() != w["question"].to_pylist()


def test_operands_stand_where_they_are_said_to():
    symbols, rng = arithmetic.Symbols(11), np.random.default_rng(0)
    d = arithmetic.draw(20, 1, rng, symbols)
    texts, places = words.contexts(d, words.wording(np.zeros(20, bool), rng), symbols)
    operands = symbols.operands(d.ops)
    for c, i, j in np.ndindex(*places.shape):
        assert texts[c][places[c, i, j]] == str(operands[c, i, j])


def test_signs_and_operands_by_hand():
    symbols = arithmetic.Symbols(11)
    # +1..+10 are 0..9, -1..-10 are 10..19, *2..*10 are 20..28
    ops = np.array([0, 9, 10, 19, 20, 28])
    assert symbols.signs(ops).tolist() == [0, 0, 1, 1, 2, 2]
    assert symbols.operands(ops).tolist() == [1, 10, 1, 10, 2, 10]
    assert [symbols.words[11 + o] for o in ops] == ["+1", "+10", "-1", "-10", "*2", "*10"]


def test_bad_settings():
    with pytest.raises(ConfigError, match="prime"):
        words.problems(5, seed=0, p=12)
    with pytest.raises(ConfigError, match="start"):
        words.twins(5, seed=0, change="op3", n_steps=2)
