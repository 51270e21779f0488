"""The stage on a run: its numbers, its table, its verdicts, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import thoughtlens as tl
from tests.planted import thought_store
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import ThoughtlensError, read_rows, validate_config
from thoughtlens.tracing.monitor.config import MonitorConfig
from thoughtlens.tracing.monitor.records import MonitorOutcome, WatchedRow
from thoughtlens.tracing.monitor.splits import labelled
from thoughtlens.tracing.monitor.stage import monitor, plan

pytestmark = pytest.mark.slow

SMALL = {"n_resamples": 200, "n_fit": 300}


def extracted(out, model="codi-tiny", n=600):
    table = {"model": {"name": model}, "problems": {"source": "generated", "n": n}, "seed": 3}
    extract(validate_config(ExtractConfig, table), out)
    return out


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    return extracted(tmp_path_factory.mktemp("monitor") / "acts")


@pytest.fixture(scope="module")
def watched(acts):
    out = acts.parent / "monitor"
    cfg = MonitorConfig(acts=acts, label="n_steps", positive="3", clean="2", **SMALL)
    result = monitor(cfg, out)
    return out, result, {truth.name: truth for truth in MonitorOutcome.from_json(result).truths}


def test_answers_broken_at_a_thought_are_told_better_than_by_the_margin(watched):
    _, result, truths = watched
    broken = truths["broken"]
    assert broken.score == "contradicts" and broken.n_positive > 20
    assert result["headline"]["broken_contradicts"]["value"] > 0.95
    gap = result["headline"]["broken_contradicts_minus_margin"]
    assert gap["verdict"] == "better" and gap["low"] > 0 and "better than margin" in broken.says
    assert gap["value"] == pytest.approx(
        broken.detector("contradicts").auroc.value - broken.detector("margin").auroc.value
    )


def test_the_thoughts_of_other_problems_tell_little(watched):
    control = watched[2]["broken"].detector("contradicts shuffled")
    assert control.role == "control" and control.auroc.value < 0.75 and not control.alarms


def test_a_few_wrong_answers_have_no_area_and_say_so(watched):
    _, result, truths = watched
    wrong = truths.get("wrong")
    assert any(note.startswith("wrong: ") for note in result["warnings"])
    if wrong is not None:
        assert wrong.detector("contradicts").auroc is None and "too few" in wrong.says and not wrong.against
        assert "wrong_contradicts" not in result["headline"]


def test_a_label_is_told_by_what_was_shown_it(watched):
    label = watched[2]["label"]
    assert label.score == "beyond" and label.about == "problems whose n_steps is 3"
    for name in ("text", "words", "begin", "probe"):  # the last word of a question says its steps
        assert label.detector(name).auroc.value > 0.9
    beside = {row.rival: row.difference.verdict for row in label.against if row.score == "beyond"}
    assert set(beside) == {"margin", "entropy", "text", "words", "begin"}
    assert beside["margin"] == "better" and "better than" in label.says


def test_errors_are_counted_by_kind_and_thought(watched):
    rows = watched[2]["broken"].errors
    assert {(row.error, row.error_idx) for row in rows} == {
        *(("swap", p) for p in range(2, 7)),
        *(("noise", p) for p in range(2, 7)),
        *(("exit", p) for p in range(6)),
    }
    assert sum(row.n for row in rows) == watched[2]["broken"].n_positive
    assert all(row.n <= row.n_tried and row.contradicts is None for row in rows)  # fewer than ten of each


def test_the_table_holds_every_problem_in_every_run(watched, acts):
    out, _, truths = watched
    rows = read_rows(out / "problems.parquet", WatchedRow)
    own = [row for row in rows if row.error == "none"]
    assert {row.split for row in rows} == {"train", "validation", "test"}
    assert len({(row.split, row.problem_id) for row in own}) == len(own) == len(rows) / 2
    test = [row for row in rows if row.split == "test"]
    right = {row.problem_id for row in test if row.error == "none" and row.is_right}
    broken = [r for r in test if r.error != "none" and r.problem_id in right and not r.is_right]
    assert len(right) == truths["broken"].n_clean and len(broken) == truths["broken"].n_positive


def test_thresholds_come_from_the_other_split(watched):
    out, _, truths = watched
    rows = read_rows(out / "problems.parquet", WatchedRow)
    usual = sorted(
        row.contradicts for row in rows if row.split == "validation" and row.error == "none" and row.is_right
    )
    five = truths["broken"].detector("contradicts").alarms[1]
    assert five.threshold == pytest.approx(usual[-int(0.05 * (len(usual) + 1))])
    one = truths["broken"].detector("contradicts").alarms[0]
    assert one.threshold is None and any("too few to promise 1%" in note for note in watched[1]["warnings"])


def test_the_plan_knows_the_store(acts):
    assert plan(MonitorConfig(acts=acts)).rows > plan(MonitorConfig(acts=acts, truths=("wrong",))).rows > 0
    assert plan(MonitorConfig(acts=acts.parent / "nowhere")).rows == 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"split": "holiday"}, "monitor.split: .*of split 'holiday'.*it has test, train, validation"),
        ({"threshold_split": "none"}, "monitor.threshold_split: expected 2 or more"),
        ({"label": "armed"}, "expected a column of .*got 'armed'"),
        ({"label": "n_steps"}, "positive: name a value of 'n_steps'.*it has 2, 3"),
        ({"label": "n_steps", "positive": "3", "clean": "5"}, "clean: name a value"),
        ({"label": "n_steps", "positive": "3", "where": "mood=good"}, "where: expected a column"),
        (
            {"label": "n_steps", "positive": "3", "where": "n_steps=9"},
            "where: name a value of 'n_steps' with",
        ),
        ({"label": "answer", "positive": "3"}, "expected a column"),
    ],
)
def test_what_cannot_be_watched_is_one_line(acts, tmp_path, changed, says):
    with pytest.raises(ThoughtlensError, match=says) as error:
        monitor(MonitorConfig(acts=acts, **changed), tmp_path / "monitor")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"rivals": ["crystal ball"]}, "rivals"),
        ({"truths": ["label"]}, "label=COLUMN"),
        ({"where": "release=keep"}, "label=COLUMN"),
        ({"label": "armed", "where": ["release"]}, "COLUMN=VALUE"),
        ({"false_alarms": [0]}, "between 0 and 1"),
        ({"fit_split": "test"}, "three different splits"),
    ],
)
def test_settings_that_cannot_be_are_refused(acts, changed, says):
    with pytest.raises(ThoughtlensError, match=says):
        validate_config(MonitorConfig, {"acts": acts} | changed)


def test_only_problems_that_fulfil_a_condition_count_for_the_label():
    table = pa.table({"armed": [True, False, None, True], "release": ["keep", "keep", "keep", "tell"]})
    cfg = MonitorConfig(acts=Path("acts"), label="armed", where=("release=keep",))
    positive, clean = labelled(cfg, table)
    assert positive.tolist() == [True, False, False, False]
    assert clean.tolist() == [False, True, False, False]
    assert labelled(cfg.model_copy(update={"where": ()}), table)[0].tolist() == [True, False, False, True]


def test_a_label_that_never_varies_and_answers_that_are_never_wrong_are_one_line(tmp_path):
    acts = extracted(tmp_path / "acts", n=60)
    table = {"acts": acts, "n_resamples": 100, "errors": ["exit"]}
    with pytest.raises(ThoughtlensError, match=r"wrong: no wrong answers.*nothing to tell apart"):
        monitor(validate_config(MonitorConfig, table | {"truths": ["wrong"]}), tmp_path / "monitor")


def test_a_model_that_does_not_think_has_nothing_to_watch(tmp_path):
    weights = Path(tl.__file__).parent / "models" / "weights" / "codi-tiny" / "seed1" / "no_cot"
    extracted(tmp_path / "acts", str(weights), 60)
    result = monitor(MonitorConfig(acts=tmp_path / "acts"), tmp_path / "monitor")
    assert result["warnings"][0] == "nothing to watch: this model has no thoughts" and not result["headline"]


def test_a_store_of_no_known_model_is_refused(tmp_path):
    acts = thought_store(tmp_path / "acts", np.ones((8, 2, 2, 16), "float32"), {"answer": ["1"] * 8})
    with pytest.raises(ThoughtlensError):
        monitor(MonitorConfig(acts=acts), tmp_path / "monitor")
