"""Programs of models built by hand: no arithmetic can help, since their steps follow a drawn table."""

from __future__ import annotations

import numpy as np
import pytest

from tests.planted import D, thought_store
from tests.tracing.program.planted import RULE, TABLE, Runner, problems, run
from thoughtlens.acts import ActivationStore
from thoughtlens.core import DataError
from thoughtlens.problems import ArithmeticRule
from thoughtlens.tracing.program.asked import Mind
from thoughtlens.tracing.program.config import ProgramConfig
from thoughtlens.tracing.program.grading import Grader, Held, execute, grades, rivals
from thoughtlens.tracing.program.inference import infer
from thoughtlens.tracing.program.stage import _rule

pytestmark = pytest.mark.slow

CFG = ProgramConfig(acts="unused", n_fit=80, n_twins=12, repeats=1)


def never(*_):
    raise AssertionError("code of the task was called")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out, mind = tmp_path_factory.mktemp("program"), Mind(Runner(), 512)
    held = problems(40, "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArithmeticRule, "apply", never)
        train, paths = problems(400, "train"), {one.words for one in held}
        return infer(CFG, mind, RULE, train, held_out=paths, out=out), mind, held


def test_the_places_are_those_that_the_model_was_built_with(made):
    found, _, _ = made
    held = {one.name: (one.thought_idx, one.also) for one in found.variables if one.route}
    assert held == {"value1": (1, ["state of thought 2"]), "value2": (3, []), "answer": (4, [])}


def test_every_cell_is_the_model_s_own_table(made):
    found, _, _ = made
    assert [step.of for step in found.steps] == [["start", "op1"], ["value1", "op2"], ["value2", "op3"]]
    assert {step.table for step in found.steps} == {"STEP"}
    assert len(found.cells) > 700
    for cell in found.cells:
        before, operation = cell.before.split(",")
        assert cell.after == str(TABLE[operation][int(before)]) and cell.votes == cell.n


def test_the_file_runs_alone_and_says_unknown_where_nothing_was_seen(made):
    found, _, held = made
    calls = [{"words": one.words} for one in held] + [{"words": ["7", "+99", "+1", "+2"]}]
    *said, unknown = execute(found.file, calls)
    for one, own in zip(held, said, strict=True):
        values = [str(x) for x in run(int(one.words[0]), one.words[1:])]
        assert [own["value1"], own["value2"], own["answer"]] == values
    assert unknown["value1"] is unknown["answer"] is None


def test_program_and_model_agree_when_a_variable_is_swapped_or_the_model_leaves_early(made):
    found, mind, asked = made
    held = Held.of(asked, mind.answers([one.question for one in asked])[0])
    grader = Grader(mind, found.file, held, found.spots, found.values, np.random.default_rng(0))
    rows = grader.rows()
    agree = {one.kind: one.agrees.value for one in grades(rows, held, "test")}
    kinds = {"untouched", "swap value1", "swap value2", "exit 0", "exit 1", "exit 2", "exit 3"}
    assert kinds <= {*agree} and all(agree[kind] == 1 for kind in kinds)
    others = {one.name: one for one in rivals(rows, found.fit, found.answers, held)}
    assert others["no thoughts"].untouched == 1 and others["lookup"].untouched == 0
    assert max(one.interchange for one in others.values()) < 0.5


def test_no_program_of_thoughts_that_the_answer_does_not_use(tmp_path):
    found = infer(CFG, Mind(Runner("unused"), 512), RULE, problems(60, "train"), held_out=set(), out=tmp_path)
    assert found.file is None and "thoughts are not used" in found.reason
    assert not [*tmp_path.iterdir()]


def test_values_that_nothing_reads_are_told_apart_all_the_same(tmp_path):
    cfg = CFG.model_copy(update={"n_fit": 200})
    mind, train = Mind(Runner("silent"), 512), problems(400, "train")
    found = infer(cfg, mind, RULE, train, held_out=set(), out=tmp_path)
    assert {one.n_values for one in found.variables if one.name.startswith("value")} == {11}
    test = problems(20, "test")
    said = execute(found.file, [{"words": one.words} for one in test])
    assert [own["answer"] for own in said] == [str(run(int(w[0]), w[1:])[-1]) for _, w in test]


def test_a_value_that_no_thought_holds_is_left_out_and_unseen_cells_are_unknown(tmp_path):
    mind, train, test = Mind(Runner("leaps"), 512), problems(400, "train"), problems(20, "test")
    found = infer(CFG, mind, RULE, train, held_out={one.words for one in test}, out=tmp_path)
    assert [step.of for step in found.steps] == [["start", "op1", "op2"], ["value2", "op3"]]
    seen = execute(found.file, [{"words": one.words} for one in found.fit])
    assert [own["answer"] for own in seen] == [str(run(int(w[0]), w[1:])[-1]) for _, w in found.fit]
    assert any(own["answer"] is None for own in execute(found.file, [{"words": one.words} for one in test]))


def test_problems_whose_words_say_no_variables_are_refused_with_the_reason(tmp_path):
    acts = thought_store(tmp_path / "acts", np.ones((6, 3, 1, D)), {})
    with pytest.raises(DataError, match=r"no variables: .* no twins can be made"):
        _rule(Runner(), ActivationStore.open(acts))


def test_problems_of_one_step_have_nothing_between(tmp_path):
    found = infer(
        CFG, Mind(Runner(), 512), RULE, problems(40, "train", n_steps=1), held_out=set(), out=tmp_path
    )
    assert found.file is None and "one step" in found.reason
