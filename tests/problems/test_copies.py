"""Near copies are one group; problems that differ in what they say are not."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thoughtlens.problems.config import TableConfig, TextConfig
from thoughtlens.problems.tasks.source import find, problems
from thoughtlens.problems.text.copies import folded, grouped, slipped
from thoughtlens.problems.text.labelled import labelled
from thoughtlens.problems.text.text import documents


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 + 4?", "what is 3+4"),
        ("Tom has 3 apples, he eats 1.", "tom has 3 apples - he eats 1"),
        ("It's five!", "its  five."),
        ("A well-known fact", "a well known fact:"),
        ("It costs 1,000 dollars", "it costs 1000 dollars..."),
        ("“Hi,” she said", '"hi" she said'),
        ("Zeit – Raum", "zeit, raum"),
        ("2*(3+4) = ?", "2 * (3 + 4) ="),
        ("one\u200b word", "One word"),
        ("How many? (He has 5.)", "how many he has 5"),
    ],
)
def test_case_space_and_punctuation_make_no_other_text(one, other):
    assert folded(one) == folded(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Fay has 3 apples and eats 1.", "Fay has 3 apples and eats 2."),
        ("Fay has 3 apples.", "Kim has 3 apples."),
        ("What is 3 + 4?", "What is 3 - 4?"),
        ("what is -5", "what is 5"),
        ("1.5 apples", "15 apples"),
        ("1.5 apples", "1 5 apples"),
        ("(3 + 4) * 5", "3 + (4 * 5)"),
        ("x - y", "x + y"),
        ("x - y", "x y"),
        ("3/4", "3*4"),
        ("5! + 1", "5 + 1"),
        ("x²", "x2"),
        ("at 3:40", "at 340"),
        ("5%", "5"),
        ("2 * (3 + -4)", "2 * (3 + 4)"),
        (".5 of it", "5 of it"),
        ("3 < 4", "3 > 4"),
        ("???", "!!!"),
    ],
)
def test_what_says_something_else_is_no_copy(one, other):
    assert folded(one) != folded(other)


def test_groups_and_copies_connect():
    texts = ["A b", "a b.", "c", "C!", "d", None, None]
    assert grouped(texts, ["1", "2", "2", "3", "4", None, None]).tolist() == [0, 0, 0, 0, 4, 5, 6]
    assert grouped([], []).tolist() == []


ROW = {"answer": "1", "cot": ""}


def table(tmp_path, questions, splits, groups=None) -> TableConfig:
    rows = [
        ROW | {"problem_id": f"p{i}", "group_id": g, "split": s, "question": q}
        for i, (q, s, g) in enumerate(
            zip(questions, splits, groups or [f"g{i}" for i in range(99)], strict=False)
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    return TableConfig(source=str(tmp_path / "p.parquet"))


def test_one_question_under_two_ids_on_both_sides_of_a_split_is_found(tmp_path, capsys):
    cfg = table(
        tmp_path, ["How many?", "So it goes.", "how  MANY", "no copy"], ["train", "train", "test", "test"]
    )
    found, notes = find(cfg)
    assert found["group_id"].to_pylist() == ["g0", "g1", "g0", "g3"]
    assert "1 questions repeat one of another group" in notes[0]
    assert "1 groups have problems in several splits (first g0)" in notes[1]
    assert problems(cfg).equals(found)
    assert "repeat one of another group" in capsys.readouterr().err


def test_problems_of_one_template_keep_their_groups(tmp_path, capsys):
    questions = [f"Fay has {i} apples and buys {j}. How many?" for i in range(5) for j in range(5)]
    found, notes = find(table(tmp_path, questions, ["train", "test"] * 13))
    assert found["group_id"].to_pylist() == [f"g{i}" for i in range(25)] and not notes


def test_copies_of_documents_share_group_and_split_and_move_no_other(tmp_path):
    plain = [f"Document number {i}, as written." for i in range(300)]
    copies = [text.upper().replace(",", " ").rstrip(".") for text in plain]
    (tmp_path / "a.txt").write_text("\n\n".join(plain))
    (tmp_path / "b.txt").write_text("\n\n".join(plain + copies))
    before, after = (documents(TextConfig(source=str(tmp_path / f"{name}.txt"))) for name in "ab")
    for name in ("group_id", "split"):
        assert after[name].to_pylist() == 2 * before[name].to_pylist()
    assert len(before["group_id"].unique()) == 300


def test_labelled_texts_that_are_copies_share_a_group_whatever_the_column_says(tmp_path):
    rows = [("Good film!", 1, "a"), ("good film", 1, "b"), ("Bad film", 0, "c"), ("Another", 0, None)]
    names = ("text", "label", "who")
    pq.write_table(
        pa.Table.from_pylist([dict(zip(names, r, strict=True)) for r in rows]), tmp_path / "d.parquet"
    )
    for column in ("who", None):
        groups = labelled(str(tmp_path / "d.parquet"), group_column=column)["group"].to_pylist()
        assert groups[0] == groups[1] and len(set(groups)) == 3


def test_a_file_of_twins_that_slipped_is_seen():
    first = [
        f"{a} has {b} apples and gives {a} {b % 7}"
        for a, b in zip("abcdefghijklmnopqrst", range(20), strict=True)
    ]
    second = [text.replace("apples", "pears") for text in first]
    pairs = [(i, 20 + i) for i in range(20)]
    assert slipped(first + second, pairs) is None
    found = slipped(first + second[1:] + second[:1], pairs)
    assert found is not None and found.lines == -1 and found.n >= 19
    # texts that have nothing to do with each other, and too few to tell
    assert slipped([f"{i} {i * i} {i + 7}" for i in range(40)], pairs) is None
    assert slipped(first[:4] + second[1:4] + second[:1], [(i, 4 + i) for i in range(4)]) is None
