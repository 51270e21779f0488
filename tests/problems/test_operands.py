"""Twins of word problems: which operand changes, what follows from it, and where there is none."""

from __future__ import annotations

import os
import random
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pytest

from thoughtlens.core import DataError
from thoughtlens.problems.tasks import gsm8k, operands
from thoughtlens.problems.tasks.gsm8k import Problem
from thoughtlens.problems.tasks.twins import change_of, twins

EGGS = (
    "Ann has 17 hens and buys nine more. Each lays 11 eggs. How many eggs is that?",
    "She has 17 + 9 = <<17+9=26>>26 hens.\nThey lay 26 x 11 = <<26*11=286>>286 eggs.",
    "286",
)


def all_twins(question, solution, answer):
    return list(operands.twins(question, solution, answer, random.Random(0)))


def why(question, solution, answer):
    with pytest.raises(operands.NoTwin) as error:
        all_twins(question, solution, answer)
    return str(error.value)


def test_the_chain_is_computed_anew():
    found = all_twins(*EGGS)
    assert len(found) > 20
    for question, solution, answer in found:
        changed = [(a, b) for a, b in zip(EGGS[0].split(), question.split(), strict=True) if a != b]
        assert len(changed) == 1
        first, last = operands.chain(solution)
        assert first.result * last.literals[1] == last.result == int(answer) != 286
        assert f"= <<{first.expression}={first.result}>>{first.result} hens" in solution
        (old, new) = changed[0]
        if old == "17":
            assert int(answer) == (int(new) + 9) * 11


def test_a_number_word_stays_a_word():
    words = {q.split("buys ")[1].split()[0] for q, *_ in all_twins(*EGGS)} - {"nine"}
    assert {"eight", "seven"} <= words and not any(word.isdigit() for word in words)


@pytest.mark.parametrize(
    ("question", "solution", "answer", "reason"),
    [
        ("Ann has 3 pens.", "So 3.", "3", operands.NO_CHAIN),
        ("Ann has 3 pens.", "<<3*x=6>>6", "6", operands.NOT_ARITHMETIC),
        ("Ann has 13 pens.", "<<13/3=4.33>>4.33", "4.33", operands.DOES_NOT_COMPUTE),
        ("Ann has 13 pens.", "<<13*3=39>>39, rounded 40", "40", operands.OTHER_ANSWER),
        ("Ann has 13 and 13 pens.", "<<13+13=26>>26", "26", operands.NO_OPERAND),
        ("Ann has 1 pen, Bo has 1.", "<<1+1=2>>2", "2", operands.NO_OPERAND),
        ("Bo has 2 pens and twice the 14 of Ann.", "<<2*14=28>>28", "28", None),
        ("Ann halves 14 pens, then half.", "<<14/2=7>>7 <<7/2=3.5>>3.5", "3.5", operands.UNCERTAIN),
        ("Ann has 13 pens.", "6 are left. <<13*6=78>>78", "78", operands.UNCERTAIN),
        ("Ann has 18 pens in boxes.", "18 / 6 = 3 boxes. <<3*7=21>>21", "21", operands.NO_OPERAND),
        ("Ann picks the cheapest of 13 and 17.", "<<13*17=221>>221", "221", operands.UNCERTAIN),
    ],
)  # fmt: skip
def test_why_there_is_no_twin(question, solution, answer, reason):
    if reason is None:
        assert {q.split()[2] for q, *_ in all_twins(question, solution, answer)} == {"2"}
    else:
        assert why(question, solution, answer) == reason


def test_results_stay_whole_and_positive():
    sold = ("Ann has 24 pens in 3 boxes and sells 5.", "<<24/3=8>>8 a box, <<8-5=3>>3 left", "3")
    for question, solution, answer in all_twins(*sold):
        assert int(answer) > 0 and all(step.result.denominator == 1 for step in operands.chain(solution))
        assert question != sold[0]


def test_a_result_that_is_also_told_changes_beside_its_annotation_only():
    told = ("Ann has 19 pens and 7 books, Bo has 12 pens fewer.", "Of 7 books: <<19-12=7>>7 pens", "7")
    changed = {answer: solution for _, solution, answer in all_twins(*told)}
    assert changed["8"] in ("Of 7 books: <<20-12=8>>8 pens", "Of 7 books: <<19-11=8>>8 pens")


def test_expressions():
    assert operands.compute("(16-3-4)*2") == 18 and operands.compute("60*.30") == 18
    assert operands.compute("1,000/3") == Fraction(1000, 3)
    for text in ("2**9", "f(3)", "1/0", "", "__import__('os')"):
        with pytest.raises(operands.NoTwin):
            operands.compute(text)


def rows(n=12):
    made = []
    for i in range(n):
        hens, eggs = i + 22, (i + 22) * 11
        question = EGGS[0].replace("17", str(i + 13))
        cot = f"She has <<{i + 13}+9={hens}>>{hens} hens.\nThey lay <<{hens}*11={eggs}>>{eggs} eggs."
        made.append(Problem(f"test_{i}", "test", question, str(eggs), cot))
    return gsm8k.columns(made, "annotations")


def test_twins_of_a_table():
    table = rows()
    assert change_of(table) == "operand"
    found = twins(table, seed=0, n=8)
    assert len(found.first) == len(found.second) == 8 and found.left_out == {}
    ids = found.first["problem_id"].to_pylist()
    assert found.second["problem_id"].to_pylist() == [f"{i}-twin" for i in ids]
    assert found.second["group_id"].to_pylist() == found.first["group_id"].to_pylist()
    for row in found.second.to_pylist():
        assert str(int(row["v2"])) == row["answer"] and row["n_steps"] == 2
    assert twins(table, seed=0, n=8).second.equals(found.second)


def test_what_has_no_twin_is_counted():
    table = rows(3)
    cots = pa.array([*table["cot"].to_pylist()[:2], "none"], pa.string())
    found = twins(table.set_column(table.column_names.index("cot"), "cot", cots), seed=0)
    assert found.left_out == {operands.NO_CHAIN: 1} and "2 of 3 problems have a twin" in found.note
    none = twins(table, seed=0, fits=lambda question, twin: False)
    assert len(none.first) == 0 and sum(none.left_out.values()) == 3
    plain = table.set_column(table.column_names.index("cot"), "cot", pa.array([""] * 3))
    with pytest.raises(DataError, match="annotated chains"):
        twins(plain, seed=0)


@pytest.mark.skipif("GSM8K_DIR" not in os.environ, reason="set GSM8K_DIR to a folder with test.jsonl")
def test_twins_of_the_published_problems():
    table = gsm8k.table([Path(os.environ["GSM8K_DIR"]) / "test.jsonl"])
    found = twins(table, seed=0)
    assert 0.40 < len(found.first) / len(table) < 0.50
    for row in found.second.to_pylist():
        assert float(operands.chain(row["cot"])[-1].result) == float(row["answer"])
