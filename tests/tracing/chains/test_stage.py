"""The stage on a run: its numbers, its tables, its controls, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import thoughtlens as tl
from tests.planted import thought_store
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import ThoughtlensError, read_rows, validate_config
from thoughtlens.tracing.chains.config import TraceConfig
from thoughtlens.tracing.chains.records import ChainRow, StepRow, TraceOutcome
from thoughtlens.tracing.chains.stage import plan, trace

pytestmark = pytest.mark.slow  # fixtures of seconds


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    out = tmp_path_factory.mktemp("trace") / "acts"
    table = {"model": {"name": "codi-tiny"}, "problems": {"source": "generated", "n": 400}, "seed": 3}
    extract(validate_config(ExtractConfig, table), out)
    return out


@pytest.fixture(scope="module")
def traced(acts):
    out = acts.parent / "trace"
    result = trace(TraceConfig(acts=acts, n=24, n_control=20), out)
    return out, result, TraceOutcome.from_json(result)


def test_the_headline_counts_verified_steps_against_the_labels(traced):
    out, result, found = traced
    assert result["headline"]["precision"]["value"] >= 0.98 and result["headline"]["recall"]["value"] >= 0.95
    rows = [row for row in read_rows(out / "steps.parquet", StepRow) if row.arm == "thoughts"]
    verified = [row for row in rows if row.label == "verified"]
    assert len(verified) == found.arms[0].labels["verified"]
    assert found.arms[0].precision.value == pytest.approx(sum(r.right for r in verified) / len(verified))
    assert found.n == 24 == len({row.problem_id for row in rows})


def test_controls_stand_beside_it_and_yield_nothing(traced):
    _, _, found = traced
    assert [arm.name for arm in found.arms] == ["thoughts", "pause", "shuffled", "renamed"]
    assert all(arm.verified.value <= 0.05 and arm.n == 20 for arm in found.arms[1:])


def test_a_problems_row_says_its_chain(traced):
    out, _, _ = traced
    rows = [row for row in read_rows(out / "problems.parquet", ChainRow) if row.arm == "thoughts"]
    right = [row for row in rows if row.is_right]
    assert len(right) >= 22
    for row in right:
        assert row.chain.endswith(f" {row.answer}") and row.breaks_at is None
        assert row.chain.count(",") == row.n_steps - 1


def test_thoughts_are_read_with_their_null_and_leaving_early_is_worse(traced):
    _, _, found = traced
    assert [row.thought_idx for row in found.thoughts] == list(range(7))
    assert found.thoughts[1].is_operation == 1 and found.thoughts[2].is_value == 1
    assert found.thoughts[2].probability > 0.9 > found.thoughts[2].null
    assert found.thoughts[0].accuracy.value < 0.3 < found.thoughts[6].accuracy.value


def test_the_plan_knows_the_store(acts):
    assert plan(TraceConfig(acts=acts)).rows > 0
    assert plan(TraceConfig(acts=acts.parent / "nowhere")).rows == 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"split": "holiday"}, "of split 'holiday'"),
        ({"pause": "nobody"}, "nobody"),
        ({"lenses": ("logit", "tuned")}, "'tuned' needs what lens makes, .* make it first: thoughtlens lens"),
        ({"lenses": ("latents",)}, "'latents' needs what train makes, .*: thoughtlens train"),
    ],
)
def test_what_cannot_be_traced_is_one_line(acts, tmp_path, changed, says):
    with pytest.raises(ThoughtlensError, match=says) as error:
        trace(TraceConfig(acts=acts, n=4, n_control=4, **changed), tmp_path / "trace")
    assert "\n" not in str(error.value)


def test_a_model_that_does_not_think_has_nothing_to_trace(tmp_path):
    weights = Path(tl.__file__).parent / "models" / "weights" / "codi-tiny" / "seed1" / "no_cot"
    table = {"model": {"name": str(weights)}, "problems": {"source": "generated", "n": 60}}
    extract(validate_config(ExtractConfig, table), tmp_path / "acts")
    result = trace(TraceConfig(acts=tmp_path / "acts", n=6), tmp_path / "trace")
    assert any("nothing to trace" in note for note in result["warnings"])
    assert "precision" not in result["headline"] or result["headline"]["precision"]["value"] is None


def test_a_store_of_no_known_model_is_refused(tmp_path):
    import numpy as np

    acts = thought_store(tmp_path / "acts", np.ones((8, 2, 2, 16), "float32"), {"answer": ["1"] * 8})
    with pytest.raises(ThoughtlensError):
        trace(TraceConfig(acts=acts), tmp_path / "trace")


def test_what_could_read_a_thought_stands_beside_what_does(traced):
    out, _, found = traced
    assert {row.lens for row in found.lenses} == {"logit lens", "linear probe"}  # no SAE, no tuned lens
    chosen = [row for row in found.lenses if row.is_chosen]
    assert [row.thought_idx for row in chosen] == list(range(1, 7))
    assert {row.lens for row in chosen[:5]} == {"logit lens"} and chosen[1].makes_sense > chosen[1].null + 0.5
    read = {row.read_by for row in read_rows(out / "steps.parquet", StepRow) if row.arm == "thoughts"}
    assert "logit lens" in read


def test_problems_say_whether_their_whole_chain_was_found(traced):
    out, _, found = traced
    rows = [row for row in read_rows(out / "problems.parquet", ChainRow) if row.arm == "thoughts"]
    assert found.arms[0].found.value == sum(row.found for row in rows) / len(rows) >= 0.9
    assert found.arms[0].found_right.n == sum(row.is_right for row in rows)
    assert all(row.departs_at is None for row in rows if row.found and row.is_right)


def test_problems_that_say_no_step_are_read_and_not_joined(tmp_path):
    rows = [
        {"problem_id": f"p{i}", "group_id": f"p{i}", "split": "test", "cot": "", "answer": "bob"}
        | {"question": f"ann +{i % 9 + 1} bob {i} once"}
        for i in range(12)
    ]
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = {
        "model": {"name": "codi-tiny"},
        "problems": {"kind": "problems", "source": str(tmp_path / "odd.jsonl")},
    }
    extract(validate_config(ExtractConfig, table), tmp_path / "acts")
    found = TraceOutcome.from_json(trace(TraceConfig(acts=tmp_path / "acts", n=6), tmp_path / "trace"))
    assert found.rule is None and not found.arms[0].n_steps and found.thoughts[2].probability > 0
    assert [note for note in found.warnings if "these problems do not say: readings are shown" in note]
