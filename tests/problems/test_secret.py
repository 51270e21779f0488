from __future__ import annotations

import collections

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from thoughtlens.core import ConfigError, DataError
from thoughtlens.problems import answers_after, roles, rule_of
from thoughtlens.problems.tasks import arithmetic, secret

DISAGREE = {("up", "low"), ("down", "high")}


def solve(question: str, start: int, p: int) -> list[int]:
    """Values of the chain asked for from a start value, by reading the text alone."""
    said = question.split()
    first, count = said.index(said[-3]) + 1, arithmetic.STEP_WORDS.index(said[-1]) + 1
    values = []
    for op in said[first : first + count]:
        start = eval(f"{start} {op[0]} {op[1:]}") % p
        values.append(start)
    return values


@pytest.mark.parametrize("p", [11, 13])
def test_labels_follow_from_the_text(p):
    seen = collections.Counter()
    for row in secret.problems(300, seed=3, p=p, n_steps=(1, 2, 3)).to_pylist():
        said = row["question"].split()
        first, other, release, second = said[12:16]
        armed, start = (first, second) in DISAGREE, int(said[-2])
        own, hidden = solve(row["question"], start, p), solve(row["question"], int(other), p)
        fill = [None] * (3 - len(own))
        released = armed and release == "tell"
        assert row["armed"] == armed == secret.armed(row["question"]) and row["released"] == released
        assert row["condition"] == ("released" if released else "armed" if armed else "clean")
        assert [row[f"v{i + 1}"] for i in range(3)] == own + fill and row["start"] == start
        assert row["answer"] == str((hidden if released else own)[-1])
        assert int(other) != start and all(a != b for a, b in zip(own, hidden, strict=True))
        assert [row[f"s{i + 1}"] for i in range(3)] == (hidden + fill if armed else [None] * 3)
        assert row["secret_start"] == (int(other) if armed else None)
        assert row["secret"] == (str(hidden[-1]) if armed else None)
        shown = (hidden if released else own)[:-1]
        assert row["cot"].split()[1::2] == list(map(str, shown))
        seen[row["condition"]] += 1
    assert set(seen) == set(secret.CONDITIONS)


def test_no_word_and_no_sum_over_words_tells_armed_from_clean_but_the_pair_does():
    table = secret.problems(8000, seed=0)
    armed, questions = np.array(table["armed"]), table["question"].to_pylist()
    words = CountVectorizer(token_pattern=r"\S+", lowercase=False, binary=True)
    counts = words.fit_transform(questions)
    for word, column in words.vocabulary_.items():
        both = np.histogram2d(counts[:, column].toarray()[:, 0], armed, bins=2)[0]
        if min(both.sum(1)) > 0:  # 60 words: none at the level of 1e-6 by chance
            assert chi2_contingency(both).pvalue > 1e-5, word
    probe = LogisticRegression(C=0.3, max_iter=300).fit(counts[:5000], armed[:5000])
    # standard deviation of the AUROC of 3,000: about 0.011
    assert abs(roc_auc_score(armed[5000:], probe.decision_function(counts[5000:])) - 0.5) < 0.05
    assert [secret.armed(q) for q in questions] == armed.tolist()
    release = np.array(table["release"])
    assert abs((armed[release == "keep"]).mean() - 0.5) < 0.03 > abs((armed[release == "tell"]).mean() - 0.5)
    assert secret.armed("up low down high") is None and secret.armed("ann +3") is None


def test_the_answer_does_not_tell_the_secret():
    table = secret.problems(20_000, seed=1).to_pylist()
    rows = [(int(r["answer"]), int(r["secret"])) for r in table if r["condition"] == "armed"]
    own, hidden = np.array(rows).T
    assert (own != hidden).all()
    shift = np.bincount((hidden - own) % 13, minlength=13)[1:]
    best = max(np.bincount(hidden[own == v]).max() / (own == v).sum() for v in range(13))
    # 12 values are left, about 385 rows a value: 1/12 = .083, standard deviation .014
    assert best < 0.15 and shift.min() / shift.sum() > 0.06


def test_operations_alone_decide_the_split_and_the_group():
    table = secret.problems(4000, seed=1)
    sides = collections.defaultdict(set)
    for row in table.to_pylist():
        ops = "".join(row[f"op{i + 1}"] for i in range(row["n_steps"]))
        assert row["group_id"] == ops
        sides[ops].add(row["split"])
    assert all(len(splits) == 1 for splits in sides.values())
    assert {"train", "validation", "test"} == set(table["split"].to_pylist())


CHANGED = {
    "start": {"start"},
    "op2": {"op2"},
    "secret_start": {"secret_start"},
    "mark": {"condition", "armed", "released"},
    "release": {"condition", "released", "release"},
}


@pytest.mark.parametrize("change", list(CHANGED))
def test_twins_differ_in_one_word_and_in_the_answer(change):
    first, second = secret.twins(40, seed=2, split="test", change=change)
    for a, b in zip(first.to_pylist(), second.to_pylist(), strict=True):
        pairs = zip(a["question"].split(), b["question"].split(), strict=True)
        assert sum(x != y for x, y in pairs) == 1
        assert a["answer"] != b["answer"] and a["group_id"] == b["group_id"]
        assert a["split"] == b["split"] == "test"
        labels = {"start", "op1", "op2", "op3", "condition", "armed", "released", "release", "secret_start"}
        differ = {name for name in labels if a[name] != b[name]}
        assert differ - {"secret_start"} == CHANGED[change] - {"secret_start"}
        assert change != "secret_start" or (a["released"] and differ == {"secret_start"})


def test_bad_requests_say_what_is_possible():
    with pytest.raises(ConfigError, match="secret_start"):
        secret.twins(5, seed=0, change="v1")
    with pytest.raises(ConfigError, match=r"op1.*release"):
        secret.twins(5, seed=0, change="op3", n_steps=2)
    with pytest.raises(DataError, match="n=0"):
        secret.problems(0, seed=0)
    with pytest.raises(ConfigError, match="prime"):
        secret.problems(5, seed=0, p=12)


def test_what_another_value_would_change_is_the_answer_that_shows_its_chain():
    table = secret.problems(200, seed=4)
    rows = table.to_pylist()
    for column, shows in (("v1", False), ("s1", True)):
        after = answers_after(table, column, [0] * 200, p=13)
        for row, new in zip(rows, after, strict=True):
            if row["released"] != shows:
                assert new == row["answer"]
            else:
                value = 0
                for i in range(2, row["n_steps"] + 1):
                    value = eval(f"{value} {row[f'op{i}'][0]} {row[f'op{i}'][1:]}") % 13
                assert new == str(value)


def test_the_secret_is_a_role_of_armed_problems_thoughts():
    table = secret.problems(60, seed=5)
    found = {role.name: role for role in roles(table, 7).roles}
    so_far, own = found["secret so far"].values, found["value so far"].values
    for i, row in enumerate(table.to_pylist()):
        last = row[f"s{row['n_steps']}"]
        wanted = [row["secret_start"], row["s1"], row["s1"], row["s2"], row["s2"], last]
        assert [so_far[t][i] for t in range(1, 7)] == wanted
        assert own[2][i] == row["v1"]
    assert "offered as first" in found and set(found["name asked for"].values[0]) <= set(arithmetic.NAMES)


def test_steps_are_those_of_the_chain_that_is_asked_for():
    row = secret.problems(1, seed=6, n_steps=(3,)).to_pylist()[0]
    rule = rule_of([row["question"]], None)
    assert rule is not None and rule.start(row["question"]) == str(row["start"])
    assert rule.apply(rule.start(row["question"]), row["op1"]) == str(row["v1"])
    changed = rule.change(row["question"], row["op1"], str(row["start"]), np.random.default_rng(0))
    assert changed is not None and secret.armed(changed.question) == row["armed"]
