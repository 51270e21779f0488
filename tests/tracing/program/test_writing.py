"""The file that is written, and run, holds whatever a model is called and answers."""

from __future__ import annotations

from thoughtlens.tracing.program.asked import spelled
from thoughtlens.tracing.program.grading import execute
from thoughtlens.tracing.program.records import Variable
from thoughtlens.tracing.program.tables import ANSWER, Exit, Step
from thoughtlens.tracing.program.writing import Draft

HOSTILE = '""");import(os)#\\N'
MODEL = 'C:\\Users\\models"""\nraise SystemExit'


def variable(name: str, named_by: str) -> Variable:
    return Variable(
        name=name, thought_idx=None, route=None, score=None, also=[], n_values=2, named_by=named_by
    )


def test_names_and_answers_of_a_model_stay_text_in_the_program_that_is_run(tmp_path):
    first, last = spelled([HOSTILE, "a\x00 'b' {0} \u2603"])
    steps = {
        "VALUE1": ([Step("start", ["op1"], "value1")], {("3", "+1"): first, ("4", "+1"): "5"}),
        "ANSWER": ([Step("value1", ["op2"], ANSWER)], {(first, "+2"): last, ("5", "+2"): "7"}),
    }
    known = [variable(name, "question") for name in ("start", "op1", "op2")]
    variables = [*known, variable("value1", "letters"), variable(ANSWER, "answer")]
    leaves = [Exit(1, ("value1",), {(first,): last}, 1.0)]
    file = tmp_path / "program.py"
    file.write_text(Draft(MODEL, 2, variables, steps, leaves, ["3", "+1", "+2"]).text(), "utf-8")
    words = ["3", "+1", "+2"]
    whole, early, other = execute(
        file, [{"words": words}, {"words": words, "thoughts": 1}, {"words": ["4", "+1", "+2"]}]
    )
    assert (whole["value1"], whole[ANSWER], early[ANSWER]) == (first, last, last)
    assert (other["value1"], other[ANSWER]) == ("5", "7")


def test_an_answer_is_not_taken_for_what_a_table_says_by_itself():
    assert spelled(["?", "-", "", "1,5 m", "-3"]) == ["?_", "-_", "_", "1.5_m", "-3"]
