"""Questions along graphs: made, read, labelled, and told from what their words alone give away."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from thoughtlens.core import ConfigError, DataError
from thoughtlens.problems.config import GraphConfig
from thoughtlens.problems.tasks import graphs, prontoqa, prosqa
from thoughtlens.problems.tasks.blind import blind
from thoughtlens.problems.tasks.roles import roles
from thoughtlens.problems.tasks.source import find, held_out

TOM = "Every ape is a bee. Sue is a elk. Tom is a ape. Tom is a cat. Every bee is a dog. Every cat is a eel."
QUESTION = f"{TOM} Is Tom a elk or dog?"
REX = "Each impus is not shy. Wumpuses are impuses. Tumpuses are shy. Rex is a wumpus."


def table_of(questions):
    return prosqa.table(questions, "by hand")


@pytest.fixture(scope="module")
def made():
    return {"prosqa": prosqa.problems(60, seed=1), "prontoqa": prontoqa.problems(60, seed=1)}


def test_labels_of_a_graph_by_hand():
    row = table_of([QUESTION]).to_pylist()[0]
    assert (row["answer"], row["root"], row["target"], row["other"]) == ("Tom is a dog.", "Tom", "dog", "elk")
    assert row["cot"] == "Tom is a ape.\nEvery ape is a bee.\nEvery bee is a dog."
    assert (row["n_steps"], row["path"], row["hop2"]) == (3, ["ape", "bee", "dog"], "bee")
    assert [row[f"frontier{i}"] for i in (1, 2, 3)] == [["ape", "cat"], ["bee", "eel"], ["dog"]]
    assert row["reachable"] == ["ape", "bee", "cat", "dog", "eel"] and row["group_id"] == "ape>bee>dog"


def test_rules_in_the_plural_and_denied():
    question = f"{REX} True or false: Rex is not shy."
    asked = graphs.read(question)
    assert asked is not None and (asked.target, asked.other) == ("not shy", "shy")
    assert asked.edges[1] == ("wumpus", "impus") and asked.path == ["wumpus", "impus", "not shy"]
    row = prontoqa.table([question, question.replace("is not shy.", "is shy.", 2)[:-1]], "p").to_pylist()[0]
    assert row["answer"] == "True"
    assert row["cot"].splitlines() == [
        "Rex is a wumpus. Wumpuses are impuses.",
        "Rex is an impus. Each impus is not shy.",
        "Rex is not shy.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("question", "says"),
    [
        (QUESTION.replace("a eel", "a ape").replace("Every bee is a dog", "Every bee is a cat"), "circle"),
        (QUESTION.replace("or dog", "or fox"), "neither elk nor fox follows for Tom"),
        (QUESTION.replace("a elk or", "a eel or"), "both eel and dog follow for Tom"),
    ],
)
def test_questions_without_one_answer(question, says):
    with pytest.raises(DataError, match=says):
        graphs.read(question)


def test_other_sentences_are_not_read():
    assert graphs.read(QUESTION.replace("Sue is a elk", "Sue likes elks")) is None
    assert graphs.read("What is 2 + 2?") is None


@pytest.mark.parametrize("name", ["prosqa", "prontoqa"])
def test_what_is_made_is_read_again(made, name):
    module = {"prosqa": prosqa, "prontoqa": prontoqa}[name]
    table = made[name]
    assert table.equals(module.problems(60, seed=1)) and not table.equals(module.problems(60, seed=2))
    assert module.table(table["question"].to_pylist(), f"{name}-any-1").equals(table)
    for row in table.to_pylist():
        assert row["path"] == [row[f"hop{i + 1}"] for i in range(row["n_steps"])]
        assert all(row[f"hop{i + 1}"] in row[f"frontier{i + 1}"] for i in range(row["n_steps"]))
        assert row["target"] in row["reachable"] and row["other"] not in row["reachable"]


@pytest.mark.parametrize("module", [prosqa, prontoqa])
def test_no_path_and_nobody_is_in_two_splits(module):
    parts = {split: module.problems(25, seed=3, split=split).to_pylist() for split in ("train", "test")}
    paths = {split: {row["group_id"] for row in rows} for split, rows in parts.items()}
    assert not paths["train"] & paths["test"]
    people = {split: {row["root"] for row in rows} for split, rows in parts.items()}
    assert people["test"] <= set(graphs.HELD_OUT_NAMES) and people["train"] <= set(graphs.TRAIN_NAMES)
    assert {row["split"] for row in parts["test"]} == {"test"}


def test_hops_as_their_authors_count_them():
    assert set(prosqa.problems(10, seed=0, hops=(3,))["n_steps"].to_pylist()) == {3}
    assert set(prontoqa.problems(10, seed=0)["n_steps"].to_pylist()) == {6}  # five rules and the fact
    for module in (prosqa, prontoqa):
        with pytest.raises(ConfigError, match="hops: expected numbers from 1"):
            module.problems(3, seed=0, hops=(9,))
    with pytest.raises(DataError, match="split: expected one of"):
        prosqa.problems(3, seed=0, split="dev")


def test_the_words_of_a_question_give_no_answer_away(made):
    rules = {one.rule: one for one in blind(made["prosqa"])}
    seldom, often = (rules[f"the offered concept that is named {word} often"] for word in ("less", "more"))
    assert seldom.right == often.right  # both are named equally often
    assert max(one.low for one in rules.values()) < 0.5
    assert max(one.low for one in blind(made["prontoqa"])) < 0.65


@pytest.mark.parametrize("name", ["prosqa", "prontoqa"])
def test_a_twin_differs_in_one_concept_and_its_answer(made, name):
    rng, seen = random.Random(0), Counter()
    for question in made[name]["question"].to_pylist():
        asked = graphs.read(question)
        assert asked is not None
        for twin in list(graphs.twins(question, rng))[:2]:
            changed = graphs.read(twin)
            assert changed is not None
            assert (changed.target, changed.other) == (asked.other, asked.target)
            assert len(changed.path) == len(asked.path) and len(twin.split()) == len(question.split())
            assert sum(a != b for a, b in zip(asked.sentences, changed.sentences, strict=True)) == 1
            seen["twins"] += 1
    assert seen["twins"] > 40


def write(file: Path, rows) -> Path:
    file.write_text(json.dumps(rows))
    return file


def test_published_files_of_coconut_and_of_prontoqa(tmp_path):
    own = {
        "question": QUESTION, "answer": "Tom is a dog.",
        "steps": ["Tom is a ape.", "Every ape is a bee.", "Every bee is a dog."],
        "idx_to_symbol": ["Tom", "ape", "bee"], "edges": [[0, 1], [1, 2]], "root": 0, "target": 2,
    }  # fmt: skip
    files = (write(tmp_path / "prosqa_train.json", [own]), write(tmp_path / "prosqa_valid.json", [own]))
    table, notes = find(GraphConfig(files=files))
    assert table["split"].to_pylist() == ["train", "validation"] and "several splits" in notes[0]
    assert table["frontier2"].to_pylist()[0] == ["bee", "eel"]
    theirs = {
        "question": REX, "query": "True or false: Rex is shy.", "answer": "False",
        "chain_of_thought": ["Rex is a wumpus.", "Wumpuses are impuses.", "Rex is an impus."],
    }  # fmt: skip
    file = write(tmp_path / "5hop_test.json", {"example1": {"test_example": theirs}})
    row = find(GraphConfig(source="prontoqa", files=(file,))).table.to_pylist()[0]
    assert (row["answer"], row["target"], row["n_steps"]) == ("False", "not shy", 3)
    assert row["cot"] == "Rex is a wumpus. Wumpuses are impuses.\nRex is an impus."


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edges": [[0, 1], [1, 0]]}, "test.json row 0: the edges have a circle: Tom -> ape -> Tom"),
        ({"answer": "Tom is a elk."}, "the answer is 'Tom is a elk.', but 'Tom is a dog.' follows"),
        ({"steps": None, "question": 3}, "expected question, steps and answer"),
    ],
)
def test_published_files_that_are_wrong(tmp_path, change, says):
    own = {"question": QUESTION, "answer": "Tom is a dog.", "steps": [], "idx_to_symbol": ["Tom", "ape"]}
    with pytest.raises(DataError, match=says) as error:
        find(GraphConfig(files=(write(tmp_path / "test.json", [own | change]),)))
    assert "\n" not in str(error.value)


def test_a_search_is_one_hop_further_at_each_thought():
    found = {role.name: role for role in roles(table_of([QUESTION]), 7).roles}
    assert {t: own[0] for t, own in found["frontier"].values.items()} == {
        1: ["ape", "cat"], 2: ["bee", "eel"], 3: ["dog"],
    }  # fmt: skip
    assert found["hop"].values[2] == ["bee"] and found["offered"].values[0] == [["dog", "elk"]]
    assert found["reachable"].values[6] == [["ape", "bee", "cat", "dog", "eel"]]


def test_more_test_problems_can_be_made():
    table = held_out(GraphConfig(n=5, seed=9, members=("frontier1",)))
    assert set(table["split"].to_pylist()) == {"test"}
    assert any(name.startswith("frontier1_has_") for name in table.column_names)
